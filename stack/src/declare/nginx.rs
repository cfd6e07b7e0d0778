//! The edge's files: who is let in, and what stands behind which port.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::DECLARED;
use crate::release::Contents;

const NGINX: &str = include_str!("../../../config/nginx/nginx.conf");
const GUARD: &str = include_str!("../../../config/nginx/guard.conf");

/// Where the edge tells which files it runs.
pub(super) const CONFIG_PATH: &str = "/.stack/declared";

/// What the edge passes on: the port on the LAN, and the one on loopback behind it.
pub(super) struct Doors {
    pub(super) api: (u16, u16),
    pub(super) grafana: (u16, u16),
    pub(super) prometheus: (u16, u16),
    /// The folder of the certificate as nginx sees it, and the certificate's digest; `None`: no TLS.
    pub(super) tls: Option<(String, String)>,
    /// Whether the host has IPv6: listening on an address family that is not there is an error.
    pub(super) ipv6: bool,
}

/// Everything below `nginx/`, under the name `declared` that it is to tell.
pub(super) fn files(allow: &[IpNet], doors: &Doors, declared: &str) -> Contents {
    let tls = doors.tls.as_ref().map(|(folder, digest)| ("tls.conf", tls(folder, digest)));
    [("nginx.conf", NGINX.to_owned()), ("guard.conf", GUARD.to_owned()), ("allow.conf", allowed(allow))]
        .into_iter()
        .chain([("servers.conf", servers(doors, declared))])
        .chain(tls)
        .map(|(name, text)| (format!("nginx/{name}"), text))
        .collect()
}

fn allowed(allow: &[IpNet]) -> String {
    let mut text = "# From edge.allow: whoever is in none of these networks gets 403.\n".to_owned();
    for network in allow {
        let _ = writeln!(text, "{network} 0;");
    }
    text
}

/// That the digest stands in it has nginx read it again when the certificate is another.
fn tls(folder: &str, digest: &str) -> String {
    format!(
        "# Of the certificate {digest}.\nssl_certificate {folder}/certificate.pem;\nssl_certificate_key \
         {folder}/key.pem;\nssl_protocols TLSv1.2 TLSv1.3;\nssl_ciphers HIGH:!aNULL:!MD5:!3DES;\nssl_session_cache \
         shared:tls:1m;\nssl_session_tickets off;\n# Who speaks plainly is told where to.\nerror_page 497 =308 \
         https://$http_host$request_uri;\n"
    )
}

/// With TLS the LAN gets nothing else, and the host itself is answered as before: `ollama list` asks plainly.
fn listen(doors: &Doors, port: u16) -> String {
    let (ssl, own) = match doors.tls {
        Some(_) => (" ssl", ["127.0.0.1:", "[::1]:"]),
        None => ("", [""; 2]),
    };
    let families = if doors.ipv6 { 2 } else { 1 };
    let wide = ["", "[::]:"].into_iter().take(families).map(|any| format!("    listen {any}{port}{ssl};\n"));
    let narrow = own.into_iter().take(families).filter(|it| !it.is_empty());
    wide.chain(narrow.map(|own| format!("    listen {own}{port};\n"))).collect()
}

fn servers(doors: &Doors, declared: &str) -> String {
    // In the words of a metric, so that Prometheus can come by the same door as clients.
    let api = format!(
        "    access_log /dev/stdout;\n    location = {CONFIG_PATH} {{\n        access_log off;\n        default_type \
         'text/plain; version=0.0.4';\n        return 200 'edge_info{{files=\"{DECLARED}{declared}\"}} 1\\n';\n    }}\n    location /api/blobs/ {{\n        \
         client_max_body_size 0;\n        proxy_pass http://gateway;\n    }}\n"
    );
    // Normalised before it is compared, so that no spelling of a path gets past this.
    let prometheus = "    location ~ ^/(-/(?!healthy$|ready$)|api/v1/(admin|write|otlp)) {\n        return 403 '{\"error\":\"not \
                      through the edge\"}\\n';\n    }\n";
    [
        ("Ollama's API, through the gateway", "gateway", doors.api, api.as_str()),
        ("Grafana", "grafana", doors.grafana, ""),
        ("Prometheus, to read", "prometheus", doors.prometheus, prometheus),
    ]
    .into_iter()
    .map(|(what, name, (lan, loopback), special)| {
        let listen = listen(doors, lan);
        format!(
            "# {what}.\nupstream {name} {{\n    server 127.0.0.1:{loopback} max_fails=0;\n    keepalive 32;\n}}\nserver {{\n{listen}    \
             include guard.conf;\n{special}    location / {{\n        proxy_pass http://{name};\n    }}\n}}\n"
        )
    })
    .collect::<Vec<_>>()
    .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    #[test]
    fn what_is_checked_in_is_what_the_defaults_give() {
        let doors =
            Doors { api: (11434, 11436), grafana: (3000, 13000), prometheus: (9090, 19090), tls: None, ipv6: true };
        let files = files(&Settings::default().edge.allow, &doors, "by-hand");
        for name in ["allow.conf", "servers.conf"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/nginx").join(name);
            if std::env::var_os("UPDATE_CONFIG").is_some() {
                std::fs::write(&path, &files[&format!("nginx/{name}")]).unwrap();
            }
            let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(checked_in, files[&format!("nginx/{name}")], "run this test with UPDATE_CONFIG=1");
        }
    }
}
