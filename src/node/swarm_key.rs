//! stub
#[derive(Debug, Clone)] pub struct SwarmKey(String);
impl SwarmKey { pub fn parse(f: &[u8]) -> Result<Self, String> { let s = String::from_utf8_lossy(f).into_owned(); s.parse::<libp2p::pnet::PreSharedKey>().map_err(|e| e.to_string())?; Ok(Self(s)) } pub fn generate() -> Self { Self(format!("/key/swarm/psk/1.0.0/\n/base16/\n{}\n", data_encoding::HEXLOWER.encode(&rand::random::<[u8; 32]>()))) } pub fn to_text(&self) -> String { self.0.clone() } pub fn fingerprint(&self) -> String { self.pre_shared().fingerprint().to_string() }
pub fn pre_shared(&self) -> libp2p::pnet::PreSharedKey { self.0.parse().expect("x") } }
