//! Users' files
pub(crate) mod platform;
