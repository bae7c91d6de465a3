//! How connections are made: TCP or QUIC, the private swarm's cipher, TLS or Noise, yamux.
//!
//! Owns the order of these layers (protocols.md §6) and their limits. It knows nothing of Bitswap, of dialling or of who
//! may connect.
//!
//! Invariants: with a swarm key nothing is spoken in clear and QUIC, which cannot be wrapped in that key, is not there at
//! all; whatever comes out of it is authenticated.

use std::io;
use std::time::Duration;

use futures::future::{BoxFuture, Either};
use futures::{AsyncRead, AsyncWrite, FutureExt};
use futures_rustls::TlsStream;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::transport::dummy::DummyTransport;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo, Version};
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport, dns, noise, pnet, quic, tcp};

use super::swarm_key::SwarmKey;
use super::{muxer, tls};

/// From the first packet to a multiplexed connection. Generous to a loaded machine, and short enough that peers which
/// say nothing do not pile up.
const SETUP_TIME_MAX: Duration = Duration::from_secs(10);

/// What all streams of one QUIC connection may have in flight together, in bytes.
const QUIC_CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

/// Which protocols may secure a TCP connection. QUIC always has TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Security {
    /// TLS where both can, else Noise.
    #[default]
    Both,
    /// Only TLS.
    Tls,
    /// Only Noise.
    Noise,
}

/// Makes the transport of a node. QUIC is there only without a swarm key.
///
/// # Errors
/// When the keypair makes no certificate.
pub(crate) fn build(
    keypair: &Keypair,
    security: Security,
    quic: bool,
    swarm_key: Option<&SwarmKey>,
) -> io::Result<Boxed<(PeerId, StreamMuxerBox)>> {
    build_within(keypair, security, quic, swarm_key, SETUP_TIME_MAX)
}

fn build_within(
    keypair: &Keypair,
    security: Security,
    quic: bool,
    swarm_key: Option<&SwarmKey>,
    setup_time_max: Duration,
) -> io::Result<Boxed<(PeerId, StreamMuxerBox)>> {
    let secure = Secure::new(keypair, security)?;
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let connections = match swarm_key.map(SwarmKey::pre_shared) {
        Some(key) => {
            let private = tcp.and_then(move |socket, _| pnet::PnetConfig::new(key).handshake(socket));
            upgraded(private, secure, setup_time_max)
        }
        None => upgraded(tcp, secure, setup_time_max),
    };
    if !quic || swarm_key.is_some() {
        return with_names(connections);
    }
    let quic = quic::tokio::Transport::new(quic_config(keypair, setup_time_max));
    let either = quic.or_transport(connections).map(|either, _| match either {
        Either::Left((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
        Either::Right(connection) => connection,
    });
    with_names(either)
}

/// Security and yamux on top of a raw connection.
fn upgraded<T, C>(raw: T, secure: Secure, setup_time_max: Duration) -> Boxed<(PeerId, StreamMuxerBox)>
where
    T: Transport<Output = C> + Send + Unpin + 'static,
    T::Error: Send + Sync + 'static,
    T::Dial: Send + 'static,
    T::ListenerUpgrade: Send + 'static,
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    raw.upgrade(Version::V1Lazy).authenticate(secure).multiplex(muxer::Config).timeout(setup_time_max).boxed()
}

/// Resolves the names in addresses with the system's resolver. A system that configures none leaves the hosts file: we
/// ask no strangers for the names of a private swarm.
fn with_names<T>(inner: T) -> io::Result<Boxed<(PeerId, StreamMuxerBox)>>
where
    T: Transport<Output = (PeerId, StreamMuxerBox)> + Send + Unpin + 'static,
    T::Error: Send + Sync + 'static,
    T::Dial: Send + 'static,
    T::ListenerUpgrade: Send + 'static,
{
    // A failed attempt uses up its transport, so it is made on one that does nothing.
    let attempt = dns::tokio::Transport::system(DummyTransport::<()>::new());
    Ok(match attempt {
        Ok(_) => dns::tokio::Transport::system(inner)?.boxed(),
        Err(_) => {
            dns::tokio::Transport::custom(inner, dns::ResolverConfig::default(), dns::ResolverOpts::default()).boxed()
        }
    })
}

fn quic_config(keypair: &Keypair, setup_time_max: Duration) -> quic::Config {
    let mut config = quic::Config::new(keypair);
    config.handshake_timeout = setup_time_max;
    config.max_concurrent_stream_limit = muxer::STREAMS_MAX;
    config.max_stream_data = muxer::STREAM_WINDOW_BYTES_MAX;
    config.max_connection_data = QUIC_CONNECTION_WINDOW_BYTES;
    config
}

/// TLS, Noise, or whichever of the two the other side has. One upgrade for all settings, so that each setting gives the
/// same type.
#[derive(Clone)]
struct Secure {
    tls: Option<tls::Config>,
    noise: Option<noise::Config>,
}

impl Secure {
    fn new(keypair: &Keypair, security: Security) -> io::Result<Self> {
        let tls =
            (security != Security::Noise).then(|| tls::Config::new(keypair)).transpose().map_err(io::Error::other)?;
        let noise =
            (security != Security::Tls).then(|| noise::Config::new(keypair)).transpose().map_err(io::Error::other)?;
        Ok(Self { tls, noise })
    }
}

/// The security protocol that both sides chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chosen {
    Tls,
    Noise,
}

impl Chosen {
    const fn name(self) -> &'static str {
        match self {
            Self::Tls => tls::PROTOCOL,
            Self::Noise => "/noise",
        }
    }
}

impl AsRef<str> for Chosen {
    fn as_ref(&self) -> &str {
        self.name()
    }
}

/// Why a connection could not be secured.
#[derive(Debug, thiserror::Error)]
enum SecureError {
    #[error("TLS: {0}")]
    Tls(#[from] tls::TlsError),
    #[error("Noise: {0}")]
    Noise(#[from] noise::Error),
    /// Multistream chose what was not offered; it never does.
    #[error("a security protocol was chosen that was not offered")]
    NotOffered,
}

/// A secured connection.
type Secured<C> = Either<TlsStream<C>, noise::Output<C>>;

impl UpgradeInfo for Secure {
    type Info = Chosen;
    type InfoIter = Vec<Chosen>;

    /// In order of preference.
    fn protocol_info(&self) -> Vec<Chosen> {
        let tls = self.tls.is_some().then_some(Chosen::Tls);
        let noise = self.noise.is_some().then_some(Chosen::Noise);
        tls.into_iter().chain(noise).collect()
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Secure {
    type Output = (PeerId, Secured<C>);
    type Error = SecureError;
    type Future = BoxFuture<'static, Result<Self::Output, SecureError>>;

    fn upgrade_inbound(self, socket: C, chosen: Chosen) -> Self::Future {
        async move {
            match (chosen, self.tls, self.noise) {
                (Chosen::Tls, Some(tls), _) => {
                    let (peer, stream) = tls.upgrade_inbound(socket, chosen.name()).await?;
                    Ok((peer, Either::Left(stream)))
                }
                (Chosen::Noise, _, Some(noise)) => {
                    let (peer, stream) = noise.upgrade_inbound(socket, chosen.name()).await?;
                    Ok((peer, Either::Right(stream)))
                }
                (Chosen::Tls, None, _) | (Chosen::Noise, _, None) => Err(SecureError::NotOffered),
            }
        }
        .boxed()
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Secure {
    type Output = (PeerId, Secured<C>);
    type Error = SecureError;
    type Future = BoxFuture<'static, Result<Self::Output, SecureError>>;

    fn upgrade_outbound(self, socket: C, chosen: Chosen) -> Self::Future {
        async move {
            match (chosen, self.tls, self.noise) {
                (Chosen::Tls, Some(tls), _) => {
                    let (peer, stream) = tls.upgrade_outbound(socket, chosen.name()).await?;
                    Ok((peer, Either::Left(stream)))
                }
                (Chosen::Noise, _, Some(noise)) => {
                    let (peer, stream) = noise.upgrade_outbound(socket, chosen.name()).await?;
                    Ok((peer, Either::Right(stream)))
                }
                (Chosen::Tls, None, _) | (Chosen::Noise, _, None) => Err(SecureError::NotOffered),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use libp2p::swarm::{Config, SwarmEvent};
    use libp2p::{Multiaddr, Swarm, SwarmBuilder, ping, yamux};

    use super::*;

    const TCP: &str = "/ip4/127.0.0.1/tcp/0";
    const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

    fn swarm(security: Security, quic: bool, key: Option<&SwarmKey>) -> Swarm<ping::Behaviour> {
        swarm_within(SETUP_TIME_MAX, security, quic, key)
    }

    fn swarm_within(time: Duration, security: Security, quic: bool, key: Option<&SwarmKey>) -> Swarm<ping::Behaviour> {
        let keypair = Keypair::generate_ed25519();
        let transport = build_within(&keypair, security, quic, key, time).unwrap();
        Swarm::new(transport, ping::Behaviour::default(), keypair.public().to_peer_id(), Config::with_tokio_executor())
    }

    async fn listening(swarm: &mut Swarm<ping::Behaviour>, address: &str) -> Multiaddr {
        swarm.listen_on(address.parse().unwrap()).unwrap();
        loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.next().await.unwrap() {
                return address;
            }
        }
    }

    /// Dials and pings; gives the dialler's first outcome.
    async fn joined(
        mut server: Swarm<ping::Behaviour>,
        mut client: Swarm<ping::Behaviour>,
        at: &str,
    ) -> Result<(), String> {
        let address = listening(&mut server, at).await.with_p2p(*server.local_peer_id()).unwrap();
        client.dial(address).map_err(|error| error.to_string())?;
        let serving = async { while server.next().await.is_some() {} };
        let outcome = async {
            loop {
                match client.next().await.unwrap() {
                    SwarmEvent::Behaviour(ping::Event { result, .. }) => {
                        return result.map(|_| ()).map_err(|error| error.to_string());
                    }
                    SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error.to_string()),
                    _ => {}
                }
            }
        };
        futures::pin_mut!(serving, outcome);
        match futures::future::select(serving, outcome).await {
            Either::Left(_) => Err("the server ended".to_owned()),
            Either::Right((result, _)) => result,
        }
    }

    #[tokio::test]
    async fn every_pair_of_settings_that_share_a_protocol_connects() {
        use Security::{Both, Noise, Tls};
        for (server, client, connects) in [
            (Both, Both, true),
            (Both, Tls, true),
            (Noise, Both, true),
            (Tls, Tls, true),
            (Noise, Noise, true),
            (Tls, Noise, false),
            (Noise, Tls, false),
        ] {
            let outcome = joined(swarm(server, false, None), swarm(client, false, None), TCP).await;
            assert_eq!(outcome.is_ok(), connects, "{server:?} and {client:?}: {outcome:?}");
        }
    }

    #[tokio::test]
    async fn it_understands_the_stock_layers_both_ways() {
        let stock = || {
            let security = (libp2p::tls::Config::new, noise::Config::new);
            let builder = SwarmBuilder::with_new_identity().with_tokio();
            let builder = builder.with_tcp(tcp::Config::default(), security, yamux::Config::default).unwrap();
            builder.with_behaviour(|_| ping::Behaviour::default()).unwrap().build()
        };
        for security in [Security::Both, Security::Tls, Security::Noise] {
            joined(swarm(security, false, None), stock(), TCP).await.unwrap();
            joined(stock(), swarm(security, false, None), TCP).await.unwrap();
        }
    }

    #[tokio::test]
    async fn quic_connects_beside_tcp() {
        joined(swarm(Security::Both, true, None), swarm(Security::Both, true, None), QUIC).await.unwrap();
        joined(swarm(Security::Both, true, None), swarm(Security::Both, true, None), TCP).await.unwrap();
    }

    #[tokio::test]
    async fn a_private_swarm_admits_its_key_and_nothing_else() {
        let (ours, theirs) = (SwarmKey::generate(), SwarmKey::generate());
        for security in [Security::Both, Security::Tls, Security::Noise] {
            joined(swarm(security, true, Some(&ours)), swarm(security, true, Some(&ours)), TCP).await.unwrap();
            // Two sides that hear noise may wait for the rest of it until their time is up, so this time is short.
            let hasty = |key| swarm_within(Duration::from_millis(500), security, true, key);
            joined(hasty(Some(&ours)), hasty(Some(&theirs)), TCP).await.unwrap_err();
            joined(hasty(Some(&ours)), hasty(None), TCP).await.unwrap_err();
            joined(hasty(None), hasty(Some(&ours)), TCP).await.unwrap_err();
        }
    }

    #[tokio::test]
    async fn quic_is_there_when_asked_for_and_never_beside_a_swarm_key() {
        let key = SwarmKey::generate();
        for (quic, key, there) in [(true, None, true), (false, None, false), (true, Some(&key), false)] {
            let listens = swarm(Security::Both, quic, key).listen_on(QUIC.parse().unwrap());
            assert_eq!(listens.is_ok(), there);
        }
    }
}
