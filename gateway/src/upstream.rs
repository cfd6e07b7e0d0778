//! How the engine is addressed.
//!
//! Invariant: it is told that it is `localhost`, whatever its address and whatever the client calls it. Bound to
//! loopback, Ollama answers 403 to any other `Host`.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use hyper::{
    Uri,
    body::Body,
    header::HeaderValue,
    http::uri::{Authority, Scheme},
};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

/// The engine is on this machine or one switch away: longer means that it is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps connections to the engine and uses them again.
pub(crate) type Client<B> = legacy::Client<HttpConnector, B>;

/// A client without a limit to a response's time: the engine may load a model for minutes before its first byte.
pub(crate) fn client<B: Body<Data = Bytes> + Send>() -> Client<B> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    legacy::Client::builder(TokioExecutor::new())
        // With a timer, what a busy hour opened is closed in a quiet one.
        .pool_timer(TokioTimer::new())
        // A connection that turns out to be closed before the request was written is replaced by another.
        .retry_canceled_requests(true)
        .set_host(false)
        .build(connector)
}

/// The engine's address, in the forms that a request wants.
pub(crate) struct Upstream {
    /// None only if an address did not read as an authority, which `SocketAddr` always does.
    authority: Option<Authority>,
    host: HeaderValue,
}

impl Upstream {
    pub(crate) fn at(address: SocketAddr) -> Self {
        let host = HeaderValue::try_from(format!("localhost:{}", address.port()));
        Upstream {
            authority: Authority::try_from(address.to_string()).ok(),
            host: host.unwrap_or(HeaderValue::from_static("localhost")),
        }
    }

    /// The value of `Host`.
    pub(crate) fn host(&self) -> HeaderValue {
        self.host.clone()
    }

    /// The same path and query at the engine; none if `uri` has no path, as in CONNECT.
    pub(crate) fn uri(&self, uri: &Uri) -> Option<Uri> {
        let path = uri.path_and_query()?.clone();
        let authority = self.authority.clone()?;
        Uri::builder().scheme(Scheme::HTTP).authority(authority).path_and_query(path).build().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_path_and_query_and_drops_the_rest() {
        let upstream = Upstream::at("[::1]:11435".parse().unwrap());
        for (from, to) in [
            ("/api/tags", "http://[::1]:11435/api/tags"),
            ("/a%20b//c?x=%2F&y", "http://[::1]:11435/a%20b//c?x=%2F&y"),
            ("http://elsewhere/api/tags?x", "http://[::1]:11435/api/tags?x"),
        ] {
            assert_eq!(upstream.uri(&from.parse().unwrap()).unwrap().to_string(), to);
        }
        assert_eq!(upstream.uri(&"elsewhere:443".parse().unwrap()), None);
        assert_eq!(upstream.host(), "localhost:11435");
    }
}
