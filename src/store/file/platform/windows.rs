//! windows
/// Address space
pub(crate) const MAP_BYTES: usize = 64 << 20;
