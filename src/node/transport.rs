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
use libp2p::core::ConnectedPoint;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::transport::dummy::DummyTransport;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo, Version};
use libp2p::identity::Keypair;
use libp2p::tcp::tokio::TcpStream;
use libp2p::{PeerId, Transport, dns, noise, quic, tcp};

use super::swarm_key::SwarmKeys;
use super::{muxer, private, tls};
use crate::platform;

/// From the first packet to a multiplexed connection. Generous to a loaded machine, and short enough that peers which
/// say nothing do not pile up.
const SETUP_TIME_MAX: Duration = Duration::from_secs(10);

/// How long what was sent over TCP may stay unacknowledged. Then the connection ends: its peer lost its power or its
/// network, or its program has been stopped. QUIC has much the same by itself.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

/// How long a TCP connection may be silent before the other side's system is asked whether it is still there: whoever
/// waits for blocks sends nothing. Such questions and answers are the systems' own and carry no data.
const SILENCE_MAX: Duration = Duration::from_secs(5);

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
    swarm_keys: Option<&SwarmKeys>,
) -> io::Result<Boxed<(PeerId, StreamMuxerBox)>> {
    build_within(keypair, security, quic, swarm_keys, SETUP_TIME_MAX)
}

fn build_within(
    keypair: &Keypair,
    security: Security,
    quic: bool,
    swarm_keys: Option<&SwarmKeys>,
    setup_time_max: Duration,
) -> io::Result<Boxed<(PeerId, StreamMuxerBox)>> {
    let secure = Secure::new(keypair, security)?;
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true)).map(ended_when_dead);
    let connections = match swarm_keys {
        Some(keys) => {
            // A third leaves time for a second key and for what follows.
            let private = private::Transport::new(tcp, keys.clone(), setup_time_max / 3);
            upgraded(private, secure, setup_time_max)
        }
        None => upgraded(tcp, secure, setup_time_max),
    };
    if !quic || swarm_keys.is_some() {
        return with_names(connections);
    }
    let quic = quic::tokio::Transport::new(quic_config(keypair, setup_time_max));
    let either = quic.or_transport(connections).map(|either, _| match either {
        Either::Left((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
        Either::Right(connection) => connection,
    });
    with_names(either)
}

fn ended_when_dead(connection: TcpStream, _: ConnectedPoint) -> TcpStream {
    if let Err(error) = platform::end_when_dead(&connection.0, SILENCE_MAX, UNACKNOWLEDGED_MAX) {
        tracing::debug!(%error, "when a connection's peer is gone may be noticed late");
    }
    connection
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
    use libp2p::pnet::{PnetConfig, PreSharedKey};
    use libp2p::swarm::{Config, SwarmEvent};
    use libp2p::{Multiaddr, Swarm, SwarmBuilder, ping, yamux};

    use super::super::swarm_key::SwarmKey;
    use super::*;

    const TCP: &str = "/ip4/127.0.0.1/tcp/0";
    const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

    fn swarm(security: Security, quic: bool, keys: Option<&SwarmKeys>) -> Swarm<ping::Behaviour> {
        swarm_within(SETUP_TIME_MAX, security, quic, keys)
    }

    fn swarm_within(
        time: Duration,
        security: Security,
        quic: bool,
        keys: Option<&SwarmKeys>,
    ) -> Swarm<ping::Behaviour> {
        let keypair = Keypair::generate_ed25519();
        let transport = build_within(&keypair, security, quic, keys, time).unwrap();
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
        let (ours, theirs) = (SwarmKeys::from(SwarmKey::generate()), SwarmKeys::from(SwarmKey::generate()));
        // Two sides of which one waits for the other lose their patience soon here.
        let hasty = |security, key| swarm_within(Duration::from_millis(500), security, true, key);
        for security in [Security::Both, Security::Tls, Security::Noise] {
            joined(swarm(security, true, Some(&ours)), swarm(security, true, Some(&ours)), TCP).await.unwrap();
            for (server, client) in [(Some(&ours), Some(&theirs)), (Some(&ours), None), (None, Some(&ours))] {
                joined(hasty(security, server), hasty(security, client), TCP).await.unwrap_err();
            }
        }
    }

    #[tokio::test]
    async fn a_stranger_is_told_that_it_may_be_the_key() {
        let (ours, theirs) = (SwarmKeys::from(SwarmKey::generate()), SwarmKeys::from(SwarmKey::generate()));
        let (server, client) = (swarm(Security::Both, false, Some(&ours)), swarm(Security::Both, false, Some(&theirs)));
        let said = joined(server, client, TCP).await.unwrap_err();
        assert!(said.contains("another swarm key, or none"), "{said}");
    }

    #[tokio::test]
    async fn members_meet_while_their_swarm_changes_its_key() {
        let (old, new) = (SwarmKey::generate(), SwarmKey::generate());
        let before = SwarmKeys::from(old.clone());
        let during = SwarmKeys { first: old, next: Some(new.clone()) };
        let after = SwarmKeys::from(new);
        for (server, client, meet) in [
            (&before, &during, true),
            (&during, &before, true),
            (&during, &during, true),
            (&during, &after, true),
            (&after, &during, true),
            (&before, &after, false),
            (&after, &before, false),
        ] {
            let swarm = |keys| swarm(Security::Both, false, Some(keys));
            let outcome = joined(swarm(server), swarm(client), TCP).await;
            assert_eq!(outcome.is_ok(), meet, "{server:?} and {client:?}: {outcome:?}");
        }
        let stranger = SwarmKeys { first: SwarmKey::generate(), next: Some(SwarmKey::generate()) };
        for (server, client) in [(&during, &stranger), (&stranger, &during)] {
            let swarm = |keys| swarm(Security::Both, false, Some(keys));
            joined(swarm(server), swarm(client), TCP).await.unwrap_err();
        }
    }

    #[tokio::test]
    async fn it_understands_the_stock_private_layer_both_ways() {
        let (old, new) = (SwarmKey::generate(), SwarmKey::generate());
        let stock = |key: &SwarmKey| {
            let key = PreSharedKey::new(*key.bytes());
            let tcp = tcp::tokio::Transport::new(tcp::Config::default());
            let private = tcp.and_then(move |socket, _| PnetConfig::new(key).handshake(socket));
            let builder = SwarmBuilder::with_new_identity().with_tokio().with_other_transport(|keypair| {
                let secure = libp2p::tls::Config::new(keypair).unwrap();
                private.upgrade(Version::V1Lazy).authenticate(secure).multiplex(yamux::Config::default())
            });
            builder.unwrap().with_behaviour(|_| ping::Behaviour::default()).unwrap().build()
        };
        let during = SwarmKeys { first: old.clone(), next: Some(new.clone()) };
        // A stock listener waits for more of what it cannot read, so the second key has its turn when time is up.
        let ours = || swarm_within(Duration::from_millis(1500), Security::Both, false, Some(&during));
        for key in [&old, &new] {
            joined(ours(), stock(key), TCP).await.unwrap();
            joined(stock(key), ours(), TCP).await.unwrap();
        }
    }

    #[tokio::test]
    async fn quic_is_there_when_asked_for_and_never_beside_a_swarm_key() {
        let key = SwarmKeys::from(SwarmKey::generate());
        for (quic, key, there) in [(true, None, true), (false, None, false), (true, Some(&key), false)] {
            let listens = swarm(Security::Both, quic, key).listen_on(QUIC.parse().unwrap());
            assert_eq!(listens.is_ok(), there);
        }
    }
}
