//! unix
/// Address space
pub(crate) const MAP_BYTES: usize = 16 << 30;
