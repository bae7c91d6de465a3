//! The messages of `/bitshoal/members/1.0.0` on a stream: four bytes of length, then protobuf (proto/members.proto). It bounds what is
//! read, and knows nothing of what the messages mean.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response::{Codec, ProtocolSupport};
use prost::Message as _;

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
pub(super) mod proto {
    include!(concat!(env!("OUT_DIR"), "/bitshoal.members.rs"));
}

use proto::Members;

/// The protocol; both sides ask and answer.
pub(in crate::node) const PROTOCOL: (StreamProtocol, ProtocolSupport) =
    (StreamProtocol::new("/bitshoal/members/1.0.0"), ProtocolSupport::Full);

/// The longest message, in bytes: all marks of [`super::MEMBERS_MAX`] members and [`super::RECORDS_BYTES_MAX`] of records
/// with what is around them.
const MESSAGE_BYTES_MAX: usize = 384 << 10;

/// Reads and writes messages.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::node) struct MembersCodec;

async fn read<S: AsyncRead + Unpin + Send>(stream: &mut S) -> io::Result<Members> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MESSAGE_BYTES_MAX {
        let text = format!("a message about members has {length} bytes, more than {MESSAGE_BYTES_MAX}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Members::decode(&*bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

async fn write<S: AsyncWrite + Unpin + Send>(stream: &mut S, message: &Members) -> io::Result<()> {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&bytes).await
}

impl Codec for MembersCodec {
    type Protocol = StreamProtocol;
    type Request = Members;
    type Response = Members;

    async fn read_request<T>(&mut self, _: &StreamProtocol, stream: &mut T) -> io::Result<Members>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(stream).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, stream: &mut T) -> io::Result<Members>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(stream).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, stream: &mut T, message: Members) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(stream, &message).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, stream: &mut T, message: Members) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(stream, &message).await
    }
}
