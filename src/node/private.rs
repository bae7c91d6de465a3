//! The private swarm: connections that begin with both sides showing that they have a key of it.
//!
//! Stands in for libp2p-pnet, whose wire it speaks, because that layer's cipher halves what a connection carries and
//! because it knows one key: a swarm that changes its key needs two for a while. Owns which key is used with whom: a
//! listener takes all of ours (`stream` says how), a dialler tries them in turn, each on a connection of its own. It does
//! not read key files, and what the other side may do once it has shown a key is not its business.

mod salsa20;
mod stream;

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncWrite, FutureExt, TryFutureExt};
use libp2p::Multiaddr;
use libp2p::core::Endpoint;
use libp2p::core::transport::{self, DialOpts, ListenerId, PortUse, TransportError, TransportEvent};
use stream::{KeyError, PrivateStream};
use tokio::time::timeout;

use super::swarm_key::SwarmKeys;

/// A transport on whose connections only members of the swarm are heard.
pub(super) struct Transport<T> {
    inner: T,
    keys: SwarmKeys,
    /// What the other side may take to show its key.
    time_max: Duration,
}

/// Why there is no private connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error<E> {
    /// There is no connection at all.
    #[error(transparent)]
    Inner(E),
    /// There was one, to somebody else.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl<T> Transport<T> {
    pub(super) const fn new(inner: T, keys: SwarmKeys, time_max: Duration) -> Self {
        Self { inner, keys, time_max }
    }
}

/// The outcome, or [`KeyError::Silent`] when it takes too long.
async fn within<C>(time_max: Duration, outcome: impl Future<Output = Result<C, KeyError>>) -> Result<C, KeyError> {
    timeout(time_max, outcome).await.unwrap_or(Err(KeyError::Silent))
}

impl<T, C> transport::Transport for Transport<T>
where
    T: transport::Transport<Output = C> + Unpin,
    T::Error: Send + 'static,
    T::Dial: Send + 'static,
    T::ListenerUpgrade: Send + 'static,
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = PrivateStream<C>;
    type Error = Error<T::Error>;
    type ListenerUpgrade = BoxFuture<'static, Result<PrivateStream<C>, Self::Error>>;
    type Dial = BoxFuture<'static, Result<PrivateStream<C>, Self::Error>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<Self::Error>> {
        self.inner.listen_on(id, address).map_err(|error| error.map(Error::Inner))
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<Self::Error>> {
        let (keys, time_max) = (self.keys.clone(), self.time_max);
        let failed = |error: TransportError<T::Error>| error.map(Error::Inner);
        // A connection for the other key, made only when it is waited for. The port of the first one may not be free yet.
        let again = DialOpts { port_use: PortUse::New, ..options };
        let second =
            keys.next.is_some().then(|| self.inner.dial(address.clone(), again)).transpose().map_err(failed)?;
        let first = self.inner.dial(address, options).map_err(failed)?;
        Ok(async move {
            let socket = first.await.map_err(Error::Inner)?;
            if options.role == Endpoint::Listener {
                return Ok(within(time_max, stream::accept(socket, &keys)).await?);
            }
            let failure = match within(time_max, stream::dial(socket, &keys.first)).await {
                Ok(connection) => return Ok(connection),
                Err(failure) => failure,
            };
            match keys.next.zip(second) {
                Some((next, second)) if failure.is_about_the_key() => {
                    let socket = second.await.map_err(Error::Inner)?;
                    Ok(within(time_max, stream::dial(socket, &next)).await?)
                }
                Some(_) | None => Err(failure.into()),
            }
        }
        .boxed())
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        let this = self.get_mut();
        let (keys, time_max) = (&this.keys, this.time_max);
        let upgraded = |upgrade: T::ListenerUpgrade| {
            let keys = keys.clone();
            let upgrade = upgrade.map_err(Error::Inner);
            async move { Ok(within(time_max, stream::accept(upgrade.await?, &keys)).await?) }.boxed()
        };
        Pin::new(&mut this.inner).poll(cx).map(|event| event.map_upgrade(upgraded).map_err(Error::Inner))
    }
}
