//! The native edge as other machines meet it: a real nginx, and clients in a network namespace of their own, inside and
//! outside of the allowlist, by both families and with each kind of TLS.

use std::fs;

use crate::{
    far::Far,
    native::{self, Native},
    stage::{lacks, lacks_root, system},
};

/// Names of namespaces are the machine's: another run may be at it, or was killed.
fn client() -> String {
    format!("stranger-{}", std::process::id())
}

/// This machine, by both families; the client is `.2` and `::2`.
const HOST: [&str; 2] = ["10.93.0.1", "[2001:db8:93::1]"];

/// Gives this namespace a neighbour. Only in a network namespace of one's own.
fn connect() {
    for words in [
        "link set lo up",
        "netns add CLIENT",
        "link add near type veth peer name far netns CLIENT",
        "address add 10.93.0.1/24 dev near",
        "address add 2001:db8:93::1/64 dev near nodad",
        "link set near up",
        "netns exec CLIENT ip address add 10.93.0.2/24 dev far",
        "netns exec CLIENT ip address add 2001:db8:93::2/64 dev far nodad",
        "netns exec CLIENT ip link set far up",
    ] {
        let words = words.replace("CLIENT", &client());
        system("ip", &words.split(' ').collect::<Vec<_>>());
    }
}

/// Its name is the machine's: it goes with the test, however that ends.
struct Neighbour;

impl Drop for Neighbour {
    fn drop(&mut self) {
        system("ip", &["netns", "delete", &client()]);
    }
}

/// What the neighbour's curl says, with `PORT` the API's.
fn there(mac: &Native<Far>, words: &str) -> String {
    let curl = "curl -s -o /dev/null -w %{http_code} --max-time 10 --noproxy '*'";
    let words = words.replace("PORT", &mac.api.to_string());
    mac.shell(&format!("ip netns exec {} {curl} {words}", client())).stdout
}

fn here(mac: &Native<Far>, words: &str) -> String {
    let words = words.replace("PORT", &mac.api.to_string());
    mac.shell(&format!("curl -s -o /dev/null -w %{{http_code}} --max-time 10 --noproxy '*' {words}")).stdout
}

/// By both families, as this scheme.
fn both(mac: &Native<Far>, scheme: &str, more: &str) -> [String; 2] {
    HOST.map(|host| there(mac, &format!("{more} {scheme}://{host}:PORT/api/tags")))
}

/// A line in the settings, below `[edge]`.
fn edge(mac: &Native<Far>, lines: &str) {
    let settings = fs::read_to_string(mac.path("stack.toml")).unwrap();
    let settings = settings.split("\n[edge]").next().unwrap();
    mac.write("stack.toml", &format!("{settings}\n[edge]\n{lines}\n"));
    mac.ok("deploy");
    mac.is_settled();
}

#[test]
fn a_native_edge_lets_in_whom_it_should_and_speaks_tls_to_the_lan_alone() {
    if lacks_root() || lacks("ip") || lacks("openssl") || lacks("nginx") || lacks("sshd") {
        return;
    }
    crate::stage::alone(&["unshare", "--net"], || {
        connect();
        let _neighbour = Neighbour;
        let Some(mac) = native::mac() else { return };
        // By default: networks that are private, of which one of IPv6's documentation is none.
        edge(&mac, "");
        assert_eq!(both(&mac, "http", ""), ["200", "403"]);
        assert_eq!(
            [here(&mac, "http://127.0.0.1:PORT/api/tags"), here(&mac, "http://[::1]:PORT/api/tags")],
            ["200", "200"]
        );
        edge(&mac, "allow = [\"127.0.0.0/8\", \"::1\", \"2001:db8:93::/64\"]");
        assert_eq!(both(&mac, "http", ""), ["403", "200"]);
        // Whoever is shut out is told so by his own doctor.
        mac.write(
            "there.toml",
            &format!("[host]\naddress = \"10.93.0.1\"\n[engine]\nruntime = \"native\"\n[ports]\napi = {}\n", mac.api),
        );
        let shut_out = mac.shell(&format!("ip netns exec {} $XTASK --settings there.toml doctor --json", client()));
        let findings = shut_out.exits(3).json()["findings"].clone();
        assert_eq!((&findings[0]["id"], findings.as_array().unwrap().len()), (&"unreachable-allowlist".into(), 1));
        // Nothing but the edge is there for others.
        let inner = fs::read_to_string(mac.path("stack.toml")).unwrap();
        let inner = inner.lines().skip_while(|line| *line != "[ports]").filter_map(|line| line.split_once(" = "));
        let inner: Vec<&str> = inner
            .filter(|(key, _)| ["engine", "gateway", "prometheus", "macmon"].contains(key))
            .map(|it| it.1)
            .collect();
        assert_eq!(inner.len(), 4);
        for port in inner {
            assert_eq!(there(&mac, &format!("http://10.93.0.1:{port}/")), "000", "{port}");
        }
        with_its_own_authority(&mac);
        with_files(&mac);
    });
}

fn with_its_own_authority(mac: &Native<Far>) {
    edge(mac, "tls = \"internal\"\nallow = [\"127.0.0.0/8\", \"::1\", \"10.93.0.0/24\", \"2001:db8:93::/64\"]");
    assert_eq!(both(mac, "http", ""), ["308", "308"]);
    let name = "--resolve localhost:PORT:10.93.0.1 https://localhost:PORT/api/tags";
    assert_eq!(there(mac, name), "000", "nobody trusts it yet");
    mac.ok("harden --ca");
    mac.shell("$XTASK harden --ca > authority.pem").exits(0);
    assert_eq!(there(mac, &format!("--cacert authority.pem {name}")), "200");
    assert_eq!(there(mac, &format!("--cacert authority.pem {}", name.replace("10.93.0.1", "[2001:db8:93::1]"))), "200");
    // `ollama list` on the host asks as before.
    assert_eq!([here(mac, "http://127.0.0.1:PORT/api/tags"), here(mac, "http://[::1]:PORT/api/tags")], ["200", "200"]);
    edge(mac, "tls = \"internal\"\nallow = [\"127.0.0.0/8\", \"::1\"]");
    assert_eq!(both(mac, "https", "-k"), ["403", "403"]);
}

fn with_files(mac: &Native<Far>) {
    let request = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 90 -subj /CN=studio.lan -addext \
                   subjectAltName=DNS:studio.lan";
    mac.shell(&format!("openssl {request} 2>&1")).exits(0);
    let files = ["cert.pem", "key.pem"].map(|name| mac.path(name).display().to_string());
    let files = format!("certificate = {:?}\ncertificate_key = {:?}", files[0], files[1]);
    edge(mac, &format!("tls = \"files\"\n{files}\nallow = [\"127.0.0.0/8\", \"10.93.0.0/24\"]"));
    let name = "--resolve studio.lan:PORT:10.93.0.1 https://studio.lan:PORT/api/tags";
    assert_eq!(there(mac, &format!("--cacert cert.pem {name}")), "200");
    assert_eq!(there(mac, &format!("--cacert authority.pem {name}")), "000", "its own authority did not make it");
    assert_eq!(both(mac, "https", "-k"), ["200", "403"]);
    assert_eq!(here(mac, "http://127.0.0.1:PORT/api/tags"), "200");
}
