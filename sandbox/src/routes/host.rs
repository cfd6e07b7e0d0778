//! Ollama's guard against web pages that reach a loopback engine under a name of their own (DNS rebinding).
//!
//! A proxy that passes its clients' `Host` on runs into it, so the stand-in has it too (`allowedHostsMiddleware` in
//! `server/routes.go`). Two names that Ollama also takes are left out: the machine's own and its other addresses.
//!
//! Invariant: an engine on loopback answers only requests addressed to a local name or a private address.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::HOST;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Answers 403, with no body, to a foreign host; passes everything else on.
pub(super) async fn guard(listening_on: IpAddr, request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).map_or(Some(""), |host| host.to_str().ok());
    if !listening_on.is_loopback() || host.is_some_and(|host| is_local(without_port(host))) {
        next.run(request).await
    } else {
        StatusCode::FORBIDDEN.into_response()
    }
}

/// `[::1]:11434` → `::1`, `localhost:11434` → `localhost`.
fn without_port(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    };
    name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name)
}

fn is_local(host: &str) -> bool {
    if let Ok(address) = host.parse::<IpAddr>() {
        return match address.to_canonical() {
            IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_unspecified(),
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unspecified(),
        };
    }
    let host = host.to_ascii_lowercase();
    host.is_empty()
        || host == "localhost"
        || [".localhost", ".local", ".internal"].iter().any(|domain| host.ends_with(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_local_names_from_foreign_ones() {
        for host in [
            "",
            "localhost",
            "LOCALHOST:11434",
            "127.0.0.1:1",
            "[::1]:11434",
            "::1",
            "10.0.0.7",
            "studio.local:80",
            "0.0.0.0",
        ] {
            assert!(is_local(without_port(host)), "{host}");
        }
        for host in ["example.com", "example.com:11434", "localhost.example.com", "8.8.8.8", "local", "[2001:db8::1]:1"]
        {
            assert!(!is_local(without_port(host)), "{host}");
        }
    }
}
