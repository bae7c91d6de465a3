//! stub
#[derive(Debug, Clone)] pub struct SwarmKey;
impl SwarmKey { pub fn parse(f: &[u8]) -> Result<Self, String> { unimplemented!() } pub fn generate() -> Self { Self } pub fn to_text(&self) -> String { unimplemented!() } pub fn fingerprint(&self) -> String { unimplemented!() } }
