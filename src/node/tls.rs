//! TLS as libp2p speaks it (`/tls/1.0.0`), with the suites in the order that this machine is fast at.
//!
//! The wire is that of libp2p-tls, which makes and reads the certificates here too: TLS 1.3 only, one self-signed
//! certificate on each side whose extension binds its key to the peer's identity. What we do otherwise, and why it is
//! worth a file:
//!
//! - libp2p-tls always prefers ChaCha20-Poly1305, which is several times slower than AES-GCM on a CPU that has AES. We
//!   prefer AES-128-GCM on such a CPU, as client (by the order of our offer) and as server (by ignoring the client's).
//! - No sessions are resumed. All servers have the same name here, so a client would show each server the tickets of
//!   another; and a peer's certificate is looked at in every handshake.
//! - Secrets are never written to `SSLKEYLOGFILE`.
//!
//! It does not compare the peer's identity with the one that was dialled: the swarm does.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use futures_rustls::rustls::client::Resumption;
use futures_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use futures_rustls::rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use futures_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use futures_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use futures_rustls::rustls::server::NoServerSessionStorage;
use futures_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use futures_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use futures_rustls::rustls::{
    self, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, PeerIncompatible, ServerConfig,
    SignatureScheme, SupportedCipherSuite, version,
};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::PeerId;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::identity::Keypair;
use libp2p::tls::certificate;

/// The name that both sides agree on in multistream.
pub(crate) const PROTOCOL: &str = "/tls/1.0.0";

/// The application protocol inside TLS.
const ALPN: &[u8] = b"libp2p";

/// Secures a connection. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Config {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// Why there is no secured connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// Ours: no certificate could be made for this identity.
    #[error("no certificate can be made: {0}")]
    Generate(#[from] certificate::GenError),
    /// Ours: the cryptography that was built in lacks what we ask of it.
    #[error("TLS cannot be set up: {0}")]
    SetUp(#[from] rustls::Error),
    /// The peer's or the network's: the handshake broke off.
    #[error("the handshake failed: {0}")]
    Handshake(#[from] io::Error),
    /// The peer's: not exactly one certificate. The verifier refuses that before.
    #[error("the peer has not shown exactly one certificate")]
    NotOneCertificate,
    /// The peer's: a certificate that names no identity. The verifier refuses that before.
    #[error("the peer's certificate is no good: {0}")]
    Certificate(#[from] certificate::ParseError),
}

impl Config {
    /// # Errors
    /// [`TlsError::Generate`] and [`TlsError::SetUp`].
    pub(crate) fn new(identity: &Keypair) -> Result<Self, TlsError> {
        let (certificate, key) = certificate::generate(identity)?;
        Self::with_certificates(vec![certificate], &key, suites(has_aes()))
    }

    fn with_certificates(
        certificates: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'static>,
        suites: Vec<SupportedCipherSuite>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(CryptoProvider { cipher_suites: suites, ..aws_lc_rs::default_provider() });
        // rustls's own constructors read the certificate, and refuse it for the extension that is critical here.
        let certified = CertifiedKey::new(certificates, provider.key_provider.load_private_key(key.clone_key())?);
        let ours = Arc::new(SingleCertAndKey::from(certified));

        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier))
            .with_client_cert_resolver(Arc::clone(&ours) as _);
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();

        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(Arc::new(Verifier))
            .with_cert_resolver(ours);
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.ignore_client_order = true;

        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }
}

/// The three suites of TLS 1.3, the preferred one first.
fn suites(has_aes: bool) -> Vec<SupportedCipherSuite> {
    if has_aes {
        vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256]
    } else {
        vec![TLS13_CHACHA20_POLY1305_SHA256, TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384]
    }
}

/// Whether this CPU has instructions for both halves of AES-GCM.
#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

/// Whether this CPU has instructions for both halves of AES-GCM: `aes` stands for AES and PMULL here.
#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

/// Whether this CPU has instructions for both halves of AES-GCM: not known, so ChaCha20 is the safe choice.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

impl UpgradeInfo for Config {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(PROTOCOL)
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Config {
    type Output = (PeerId, TlsStream<C>);
    type Error = TlsError;
    type Future = BoxFuture<'static, Result<Self::Output, TlsError>>;

    fn upgrade_inbound(self, socket: C, _: &'static str) -> Self::Future {
        async move {
            let stream = TlsAcceptor::from(self.server).accept(socket).await?;
            let peer = identity(stream.get_ref().1)?;
            Ok((peer, stream.into()))
        }
        .boxed()
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Config {
    type Output = (PeerId, TlsStream<C>);
    type Error = TlsError;
    type Future = BoxFuture<'static, Result<Self::Output, TlsError>>;

    fn upgrade_outbound(self, socket: C, _: &'static str) -> Self::Future {
        async move {
            // The specification forbids a server name to be sent; for an address none is.
            let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::UNSPECIFIED));
            let stream = TlsConnector::from(self.client).connect(name, socket).await?;
            let peer = identity(stream.get_ref().1)?;
            Ok((peer, stream.into()))
        }
        .boxed()
    }
}

/// Who the peer has proved to be.
fn identity(state: &CommonState) -> Result<PeerId, TlsError> {
    match state.peer_certificates() {
        Some([certificate]) => Ok(certificate::parse(certificate)?.peer_id()),
        Some(_) | None => Err(TlsError::NotOneCertificate),
    }
}

/// Takes exactly one certificate, self-signed, in its time, with an identity's signature over its key.
#[derive(Debug)]
struct Verifier;

impl Verifier {
    fn certificate(certificate: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if !more.is_empty() {
            return Err(rustls::Error::General("a peer shows one certificate and not several".to_owned()));
        }
        certificate::parse(certificate)?;
        Ok(())
    }

    fn signature(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        certificate::parse(certificate)?.verify_signature(signed.scheme, message, signed.signature())?;
        Ok(HandshakeSignatureValid::assertion())
    }

    /// TLS 1.2 is not offered, so nobody gets here.
    fn old_signature() -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled))
    }

    /// What [`certificate::parse`] can verify, the preferred first.
    fn schemes() -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PKCS1_SHA512,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA256,
        ]
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::certificate(certificate, more).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::old_signature()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::certificate(certificate, more).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::old_signature()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
    use futures_rustls::rustls::CipherSuite;
    use libp2p::Transport;
    use libp2p::core::Endpoint;
    use libp2p::core::transport::{DialOpts, ListenerId, MemoryTransport, PortUse, TransportEvent};

    use super::*;

    /// The two ends of one connection within the process.
    async fn pipe() -> (impl Socket, impl Socket) {
        let mut transport = MemoryTransport::default().boxed();
        transport.listen_on(ListenerId::next(), "/memory/0".parse().unwrap()).unwrap();
        let Some(TransportEvent::NewAddress { listen_addr, .. }) = transport.next().await else { panic!("no address") };
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
        let dialled = MemoryTransport::default().dial(listen_addr, options).unwrap();
        let accepted = async {
            let Some(TransportEvent::Incoming { upgrade, .. }) = transport.next().await else {
                panic!("no connection")
            };
            upgrade.await.unwrap()
        };
        let (client, server) = futures::join!(dialled, accepted);
        (client.unwrap(), server)
    }

    trait Socket: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
    impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Socket for T {}

    /// Shakes hands, says something both ways, and gives the suite and whom the server and the client have met. `None`
    /// when either side refuses.
    async fn meet<S, C, SE: Debug, CE: Debug, A: Socket, B: Socket>(
        (client_socket, server_socket): (A, B),
        server: S,
        client: C,
    ) -> Option<(CipherSuite, PeerId, PeerId)>
    where
        S: InboundConnectionUpgrade<B, Info = &'static str, Output = (PeerId, TlsStream<B>), Error = SE>,
        C: OutboundConnectionUpgrade<A, Info = &'static str, Output = (PeerId, TlsStream<A>), Error = CE>,
    {
        let serving = async {
            let (peer, mut stream) = server.upgrade_inbound(server_socket, PROTOCOL).await.ok()?;
            let mut heard = [0; 4];
            stream.read_exact(&mut heard).await.ok()?;
            stream.write_all(&heard).await.ok()?;
            stream.flush().await.ok()?;
            Some((peer, stream.get_ref().1.negotiated_cipher_suite()?.suite()))
        };
        let asking = async {
            let (peer, mut stream) = client.upgrade_outbound(client_socket, PROTOCOL).await.ok()?;
            stream.write_all(b"ping").await.ok()?;
            stream.flush().await.ok()?;
            let mut heard = [0; 4];
            stream.read_exact(&mut heard).await.ok()?;
            assert_eq!(&heard, b"ping");
            Some(peer)
        };
        let (served, asked) = futures::join!(serving, asking);
        let ((client, suite), server) = (served?, asked?);
        Some((suite, client, server))
    }

    fn ours(key: &Keypair, has_aes: bool) -> Config {
        let (certificate, private) = certificate::generate(key).unwrap();
        Config::with_certificates(vec![certificate], &private, suites(has_aes)).unwrap()
    }

    #[tokio::test]
    async fn it_understands_the_stock_one_both_ways_and_picks_the_fast_suite() {
        use CipherSuite::{TLS13_AES_128_GCM_SHA256 as AES, TLS13_CHACHA20_POLY1305_SHA256 as CHACHA};
        let (a, b) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let (a_id, b_id) = (a.public().to_peer_id(), b.public().to_peer_id());
        let stock = |key| libp2p::tls::Config::new(key).unwrap();

        let suite = |has_aes| if has_aes { AES } else { CHACHA };
        for has_aes in [true, false] {
            let met = meet(pipe().await, ours(&a, has_aes), stock(&b)).await;
            assert_eq!(met, Some((suite(has_aes), b_id, a_id)), "as server");
            let met = meet(pipe().await, stock(&a), ours(&b, has_aes)).await;
            assert_eq!(met, Some((suite(has_aes), b_id, a_id)), "as client");
            let met = meet(pipe().await, ours(&a, true), ours(&b, has_aes)).await;
            assert_eq!(met, Some((AES, b_id, a_id)), "the server decides");
        }
        let met = meet(pipe().await, Config::new(&a).unwrap(), Config::new(&b).unwrap()).await;
        assert_eq!(met, Some((suite(has_aes()), b_id, a_id)));
        // What all this is for: two of the stock ones.
        assert_eq!(meet(pipe().await, stock(&a), stock(&b)).await, Some((CHACHA, b_id, a_id)));
    }

    #[test]
    fn certificates_are_good_at_any_time() {
        let (certificate, _) = certificate::generate(&Keypair::generate_ed25519()).unwrap();
        let has = |time: &[u8]| certificate.windows(time.len()).any(|window| window == time);
        // From 1975 to 4096: a clock that jumps by years is no reason to refuse anybody.
        assert!(has(b"750101000000Z") && has(b"40960101000000Z"));
    }

    #[tokio::test]
    async fn peers_that_prove_nothing_are_refused_on_both_sides() {
        let (a, b) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let (certificate, key) = certificate::generate(&b).unwrap();
        let (other_certificate, other_key) = certificate::generate(&b).unwrap();
        let mut forged = certificate.as_ref().to_vec();
        *forged.last_mut().unwrap() ^= 1;
        for (why, certificates, key) in [
            ("no certificate", vec![], &key),
            ("two certificates", vec![certificate.clone(), other_certificate], &key),
            ("the key of another certificate", vec![certificate], &other_key),
            ("a broken self-signature", vec![CertificateDer::from(forged)], &key),
            ("no certificate at all in it", vec![CertificateDer::from(vec![0x30, 0])], &key),
        ] {
            let bad = Config::with_certificates(certificates, key, suites(true)).unwrap();
            assert_eq!(meet(pipe().await, ours(&a, true), bad.clone()).await, None, "a client with {why}");
            assert_eq!(meet(pipe().await, bad, ours(&a, true)).await, None, "a server with {why}");
        }
    }
}
