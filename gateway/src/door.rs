//! Who is at the door, and whether they may come in.
//!
//! Behind an edge every connection comes from it, so whom it speaks for stands at the end of `X-Forwarded-For`, where
//! the edge writes it, whatever a client sent. A client that comes by another way could forge it: it is believed of the
//! host's own loopback only, where the edge is, and where whoever could lie about it may come in anyway.
//!
//! Invariant: an address that may be forged is never taken for the host's own.

use std::{net::IpAddr, sync::Arc};

use hyper::{HeaderMap, header::AUTHORIZATION};

use crate::{key::Ring, queue::Client};

/// Lets in who has a key, or needs none.
pub(crate) struct Door {
    /// None: everyone may come in.
    pub(crate) keys: Option<Arc<Ring>>,
    /// The host's own clients need a key as well.
    pub(crate) keys_on_loopback: bool,
}

/// Why somebody may not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    NoKey,
    WrongKey,
}

impl Door {
    /// Who asks, by the headers of a request from `peer`.
    pub(crate) fn admit(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Client, Refusal> {
        let (address, is_own) = self.address(headers, peer);
        let Some(keys) = &self.keys else { return Ok(Client::Address(address)) };
        match key(headers).map(|key| keys.recognise(key)) {
            Some(Some(name)) => Ok(Client::Key(name)),
            _ if is_own && !self.keys_on_loopback => Ok(Client::Address(address)),
            Some(None) => Err(Refusal::WrongKey),
            None => Err(Refusal::NoKey),
        }
    }

    /// Whether metrics are for who asks: for the host's own, whose Prometheus has no key, and for who may come in.
    pub(crate) fn shows(&self, headers: &HeaderMap, peer: IpAddr) -> Result<(), Refusal> {
        match self.address(headers, peer) {
            (_, true) => Ok(()),
            _ => self.admit(headers, peer).map(drop),
        }
    }

    /// The client's address, and whether it is the host's own.
    fn address(&self, headers: &HeaderMap, peer: IpAddr) -> (IpAddr, bool) {
        let peer = peer.to_canonical();
        if !peer.is_loopback() {
            return (peer, false);
        }
        match headers.get_all("x-forwarded-for").iter().next_back() {
            // Nobody stands between: a component of the stack, or a program on the host.
            None => (peer, true),
            // What stands before the last comma, somebody else wrote.
            Some(value) => {
                match value.to_str().ok().and_then(|text| text.rsplit(',').next()?.trim().parse::<IpAddr>().ok()) {
                    Some(address) => (address.to_canonical(), address.to_canonical().is_loopback()),
                    None => (peer, false),
                }
            }
        }
    }
}

/// The key that a request offers, in either API's way.
fn key(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then(|| key.trim_ascii())
    });
    bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use hyper::header::{HeaderName, HeaderValue};

    use super::*;
    use crate::key::KeyFile;

    fn door() -> (Door, String) {
        let (ring, mut file) = (Ring::new(PathBuf::new()), KeyFile::default());
        let key = file.add("laptop", String::new()).unwrap().unwrap();
        ring.replace(file);
        (Door { keys: Some(Arc::new(ring)), keys_on_loopback: false }, key)
    }

    fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
        let parsed =
            given.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
        parsed.collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_key_comes_in_either_apis_way() {
        let (door, key) = door();
        let laptop = Ok(Client::Key("laptop".into()));
        for header in [("authorization", format!("Bearer {key}")), ("authorization", format!("bearer  {key} "))] {
            assert_eq!(door.admit(&headers(&[(header.0, &header.1)]), ip("192.168.1.9")), laptop, "{header:?}");
        }
        assert_eq!(door.admit(&headers(&[("x-api-key", &key)]), ip("192.168.1.9")), laptop);
        let basic = headers(&[("authorization", "Basic eA=="), ("x-api-key", &key)]);
        assert_eq!(door.admit(&basic, ip("192.168.1.9")), laptop);
        assert_eq!(door.admit(&headers(&[]), ip("192.168.1.9")), Err(Refusal::NoKey));
        assert_eq!(door.admit(&headers(&[("x-api-key", "x")]), ip("192.168.1.9")), Err(Refusal::WrongKey));
    }

    #[test]
    fn only_loopback_may_speak_for_others() {
        let (door, _) = door();
        let for_loopback = headers(&[("x-forwarded-for", "127.0.0.1")]);
        assert_eq!(door.admit(&for_loopback, ip("192.168.1.9")), Err(Refusal::NoKey));
        assert_eq!(door.admit(&for_loopback, ip("127.0.0.1")), Ok(Client::Address(ip("127.0.0.1"))));
        let for_lan = headers(&[("x-forwarded-for", "192.168.1.9")]);
        assert_eq!(door.admit(&for_lan, ip("127.0.0.1")), Err(Refusal::NoKey));
        let forged = headers(&[("x-forwarded-for", "127.0.0.1, 192.168.1.9")]);
        assert_eq!(door.admit(&forged, ip("127.0.0.1")), Err(Refusal::NoKey));
        assert_eq!(door.admit(&headers(&[("x-forwarded-for", "nonsense")]), ip("::1")), Err(Refusal::NoKey));
        assert_eq!(door.admit(&headers(&[]), ip("::ffff:127.0.0.1")), Ok(Client::Address(ip("127.0.0.1"))));
    }

    #[test]
    fn loopback_needs_a_key_if_asked_for() {
        let (door, key) = door();
        let door = Door { keys_on_loopback: true, ..door };
        assert_eq!(door.admit(&headers(&[]), ip("127.0.0.1")), Err(Refusal::NoKey));
        assert!(door.admit(&headers(&[("x-api-key", &key)]), ip("127.0.0.1")).is_ok());
        // What is measured here has to be scraped all the same.
        assert_eq!(door.shows(&headers(&[]), ip("127.0.0.1")), Ok(()));
        let for_lan = headers(&[("x-forwarded-for", "192.168.1.9")]);
        assert_eq!(door.shows(&for_lan, ip("127.0.0.1")), Err(Refusal::NoKey));
        assert_eq!(door.shows(&headers(&[("x-api-key", &key)]), ip("192.168.1.9")), Ok(()));
    }
}
