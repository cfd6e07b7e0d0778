//! One connection to the engine. It does nothing unless it is polled.

use std::{
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
    time,
};

/// The engine is on this machine or one switch away: longer means that it is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The most that is read at a time.
const READ_BYTES: usize = 16 * 1024;

pub(super) struct Link {
    pub(super) socket: TcpStream,
    /// What the engine has said and nobody has taken yet.
    pub(super) unread: BytesMut,
}

impl Link {
    pub(super) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let connected = time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
        let socket = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        socket.set_nodelay(true)?;
        Ok(Link { socket, unread: BytesMut::new() })
    }

    /// Waits for more to be said. Ready with the number of bytes, 0 if the engine has closed the connection.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // A stream that waits has no buffer: what was taken does not hold what it was read into, and what comes is read
        // on the stack and copied.
        if self.unread.is_empty() {
            self.unread = BytesMut::new();
        }
        let mut room = [MaybeUninit::uninit(); READ_BYTES];
        let mut read = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut read))?;
        self.unread.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    /// True if the connection is open and nothing was said that nobody asked for.
    pub(super) fn is_idle(&self) -> bool {
        // Not by a poll: a task has a budget of them, and beyond it every connection seems idle.
        self.socket.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}
