//! The edge's files in a real nginx: what it lets through, what it stops, and what it tells.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    thread,
};

use chrono::TimeDelta;
use rustix::process::Signal;
use stack::{
    declare::{Wanted, question},
    host::Host,
    layout::Root,
    observed::{Docker, Engine, Observed},
    plan::{Step, plan},
    protocol::{Reply, Request},
    release::Contents,
    settings::Settings,
};

use crate::stage::{Job, Ran, Stage, lacks, lacks_root, system, take_ports, until};

/// An edge before one backend, which answers everything with 200 and what it was asked.
pub(crate) struct Edge {
    nginx: Job,
    pub(crate) stage: Stage,
    pub(crate) api: u16,
    prometheus: u16,
    _guard: TcpListener,
}

impl Edge {
    /// With these lines below `[edge]`. `None`: a part is lacking.
    pub(crate) fn new(edge: &str) -> Option<Edge> {
        if lacks("nginx") || lacks("curl") {
            return None;
        }
        let stage = Stage::new();
        let (ports, guard) = take_ports();
        let [_, api, lan_grafana, lan_prometheus, ..] = ports;
        let backend = backend();
        let text = format!(
            "[engine]\nruntime = \"docker\"\n[edge]\n{edge}\n[ports]\napi = {api}\nlan_grafana = {lan_grafana}\nlan_prometheus = \
             {lan_prometheus}\n"
        );
        for (name, file) in files(&stage, &text) {
            let Some(name) = name.strip_prefix("nginx/") else { continue };
            // Behind each door stands our backend.
            let lines = file.lines().map(|line| match line.trim_start().starts_with("server 127.0.0.1:") {
                true => format!("server 127.0.0.1:{backend};\n"),
                false => format!("{line}\n"),
            });
            let temporary = stage.path("temporary").display().to_string();
            stage.write(
                &format!("nginx/{name}"),
                &lines
                    .collect::<String>()
                    .replace("/tmp/", &format!("{temporary}/"))
                    .replace("/etc/nginx/tls", &stage.path("root/state/tls/edge").display().to_string()),
            );
        }
        fs::create_dir_all(stage.path("temporary")).unwrap();
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let words = ["-c", &stage.path("nginx/nginx.conf").display().to_string(), "-g", &format!("daemon off; {user}")];
        let words = words.map(str::to_owned);
        let nginx = stage.start_words(Path::new("/usr/sbin/nginx"), &words);
        until("nginx listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, api)).ok());
        Some(Edge { nginx, stage, api, prometheus: lan_prometheus, _guard: guard })
    }

    /// What curl says of a request to the API.
    pub(crate) fn curl(&self, words: &str) -> Ran {
        self.stage.shell(&format!("curl -s --noproxy '*' --max-time 20 {words}"))
    }

    fn status(&self, words: &str) -> String {
        self.curl(&format!("-o /dev/null -w '%{{http_code}}' {words}")).stdout
    }
}

impl Drop for Edge {
    /// Killed, it would leave its workers behind.
    fn drop(&mut self) {
        let nginx = self.nginx.process();
        if nginx.runs() {
            nginx.signal(Signal::TERM);
            until("nginx is gone", || (!nginx.runs()).then_some(()));
        }
    }
}

/// What a deploy to this machine would give the edge, once it has done what has to be done first.
fn files(stage: &Stage, text: &str) -> Contents {
    let mut host = host(stage);
    loop {
        let (plan, contents) = plan(&wanted(text), &observed(&mut host, text)).unwrap();
        if !plan.unfinished {
            return contents;
        }
        host.answer(Request::Apply { plan: Box::new(plan), contents }, &mut |_| Ok(())).unwrap();
    }
}

fn host(stage: &Stage) -> Host {
    let (root, program) = (Root::new(stage.root()), stage.program().to_owned());
    Host { root, program, program_id: "program".to_owned(), password: None }
}

fn wanted(text: &str) -> Wanted {
    let settings = Settings::parse(text, Path::new("stack.toml")).unwrap();
    let source = [("stack.toml".to_owned(), text.to_owned())].into();
    Wanted { settings, source, program: "program".to_owned() }
}

/// As it is, with a Docker that has every image, and nobody on the ports of the settings, where a real stack may be.
fn observed(host: &mut Host, text: &str) -> Observed {
    let question = question(&wanted(text).settings, "program");
    let images = question.images.clone().unwrap().into_iter().chain([host.root.own_image("program")]);
    let images = images.map(|image| (image.clone(), image)).collect();
    let Reply::Observed(mut observed) = host.answer(Request::Observe(question), &mut |_| Ok(())).unwrap() else {
        panic!("no observation")
    };
    let engine = Engine::Answers { version: "24.0.0".to_owned(), compose: Some("2.26.0".to_owned()) };
    observed.taken.clear();
    observed.docker = Some(Docker { engine, images, remnants: Vec::new(), misplaced: false });
    *observed
}

/// Answers every request with its own first line; runs until the test ends.
fn backend() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut request = Vec::new();
                let mut buffer = vec![0; 1 << 16];
                while !request.windows(4).any(|it| it == b"\r\n\r\n") {
                    match stream.read(&mut buffer) {
                        Ok(size @ 1..) => request.extend_from_slice(&buffer[..size]),
                        _ => return,
                    }
                }
                let text = String::from_utf8_lossy(&request).into_owned();
                let length =
                    text.lines().find_map(|it| it.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
                let head = request.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
                let mut left = length.unwrap_or(0usize).saturating_sub(request.len() - head);
                while left > 0 {
                    match stream.read(&mut buffer) {
                        Ok(size @ 1..) => left = left.saturating_sub(size),
                        _ => return,
                    }
                }
                let said = text.lines().next().unwrap_or_default();
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nx-powered-by: secrets\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{said}",
                    said.len()
                );
            });
        }
    });
    port
}

#[test]
fn it_tells_no_versions_and_is_framed_by_nobody() {
    let Some(edge) = Edge::new("") else { return };
    for path in ["/api/tags", "/.stack/declared"] {
        let said = edge.curl(&format!("-i http://127.0.0.1:{}{path}", edge.api)).stdout.to_ascii_lowercase();
        assert!(said.starts_with("http/1.1 200"), "{said}");
        for header in ["x-content-type-options: nosniff", "x-frame-options: sameorigin", "referrer-policy: no-referrer"]
        {
            assert!(said.contains(header), "{header} is not in {said}");
        }
        assert!(!said.contains("x-powered-by") && said.contains("server: nginx\r\n"), "{said}");
    }
}

#[test]
fn uploads_of_models_alone_have_no_limit() {
    let Some(edge) = Edge::new("") else { return };
    edge.stage.shell("head -c 70000000 /dev/zero > large").exits(0);
    let send = |path: &str| edge.status(&format!("--data-binary @large http://127.0.0.1:{}{path}", edge.api));
    assert_eq!(send("/api/blobs/sha256:ab"), "200");
    assert_eq!(send("/api/generate"), "413");
}

#[test]
fn prometheus_is_to_be_read_however_a_path_is_spelled() {
    let Some(edge) = Edge::new("") else { return };
    let status =
        |path: &str| edge.status(&format!("--path-as-is -X POST 'http://127.0.0.1:{}{path}'", edge.prometheus));
    for path in
        ["/api/v1/admin/tsdb/snapshot", "//api/v1/admin/x", "/api/v1/%61dmin/x", "/x/../api/v1/write", "/-/quit"]
    {
        assert_eq!(status(path), "403", "{path}");
    }
    assert_eq!((status("/api/v1/query?query=up").as_str(), status("/-/ready").as_str()), ("200", "200"));
}

#[test]
fn one_who_asks_too_often_is_told_so_and_the_host_itself_is_not() {
    let Some(address) = lan_address() else { return };
    let Some(edge) = Edge::new(&allowing(&address)) else { return };
    let many = |address: &str| {
        let url = format!("http://{address}:{}/api/tags?[1-900]", edge.api);
        let ran = edge.curl(&format!("--parallel --parallel-max 50 -o /dev/null -w '%{{http_code}}\\n' '{url}'"));
        ran.stdout.lines().filter(|status| *status == "429").count()
    };
    assert_eq!(many("127.0.0.1"), 0);
    assert!(many(&address) > 0, "nobody was turned away");
}

/// An address of this machine that is not loopback.
fn lan_address() -> Option<String> {
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback()).then(|| address.to_string())
}

/// Whose address may be one of a network that nobody has at home.
fn allowing(address: &str) -> String {
    format!("allow = [\"127.0.0.0/8\", \"{address}\"]")
}

#[test]
fn whoever_is_in_no_network_of_the_allowlist_is_shut_out_by_both_families() {
    if lacks_root() || lacks("ip") {
        return;
    }
    crate::stage::alone(&["unshare", "--net"], || {
        for words in [
            "link set lo up",
            "netns add stranger-edge",
            "link add near type veth peer name far netns stranger-edge",
            "address add 10.92.0.1/24 dev near",
            "address add 2001:db8:92::1/64 dev near nodad",
            "link set near up",
            "netns exec stranger-edge ip address add 10.92.0.2/24 dev far",
            "netns exec stranger-edge ip address add 2001:db8:92::2/64 dev far nodad",
            "netns exec stranger-edge ip link set far up",
        ] {
            system("ip", &words.split(' ').collect::<Vec<_>>());
        }
        let seen = |allow: &str| {
            let edge = Edge::new(allow)?;
            let ask = |url: String| {
                let curl = "curl -s -o /dev/null -w %{http_code} --max-time 10 --noproxy '*'";
                edge.stage.shell(&format!("ip netns exec stranger-edge {curl} '{url}:{}/api/tags'", edge.api)).stdout
            };
            Some([ask("http://10.92.0.1".to_owned()), ask("http://[2001:db8:92::1]".to_owned())])
        };
        let found = (seen(""), seen("allow = [\"2001:db8:92::/64\"]"));
        system("ip", &["netns", "delete", "stranger-edge"]);
        let both = |v4: &str, v6: &str| Some([v4.to_owned(), v6.to_owned()]);
        assert_eq!(found, (both("200", "403"), both("403", "200")));
    });
}

/// The steps of a deploy at this time that are about certificates.
fn certified(host: &mut Host, text: &str, days: i64) -> Vec<Step> {
    let mut observed = observed(host, text);
    observed.clock += TimeDelta::days(days);
    let steps = plan(&wanted(text), &observed).unwrap().0.steps;
    steps.into_iter().filter(|step| matches!(step, Step::Certify { .. })).collect()
}

#[test]
fn with_tls_the_lan_gets_nothing_else_and_the_host_is_answered_as_before() {
    let Some(address) = lan_address() else { return };
    let Some(edge) = Edge::new(&format!("{}\ntls = \"internal\"", allowing(&address))) else { return };
    let ask = |words: &str| edge.status(&words.replace("PORT", &edge.api.to_string()));
    assert_eq!(ask("http://127.0.0.1:PORT/api/tags"), "200", "`ollama list` asks so");
    assert_eq!(ask(&format!("http://{address}:PORT/api/tags")), "308");
    let url = format!("--resolve localhost:PORT:{address} https://localhost:PORT/api/tags");
    assert_eq!(ask(&url), "000", "nobody trusts it yet");
    assert_eq!(ask(&format!("--cacert root/state/tls/authority.pem {url}")), "200");
    assert_eq!(ask(&format!("--cacert root/state/tls/authority.pem --tlsv1.3 {url}")), "200");
    let old = "-k --tls-max 1.1 --tlsv1.0 --ciphers DEFAULT:@SECLEVEL=0";
    assert_eq!(ask(&format!("{old} {url}")), "000");
}

#[test]
fn a_certificate_is_made_once_renewed_before_its_end_and_of_the_same_authority() {
    let stage = Stage::new();
    let text = "[engine]\nruntime = \"docker\"\n[edge]\ntls = \"internal\"\n";
    let read = |name: &str| fs::read_to_string(stage.root().join("state/tls").join(name)).unwrap();
    let mode =
        |name: &str| fs::metadata(stage.root().join("state/tls").join(name)).unwrap().permissions().mode() & 0o777;
    let first = files(&stage, text)["nginx/tls.conf"].clone();
    let (authority, certificate) = (read("authority.pem"), read("edge/certificate.pem"));
    assert_eq!((mode(""), mode("authority.key")), (0o700, 0o600));
    assert!(
        fs::read_to_string(stage.root().join("data/textfile/tls.prom")).unwrap().contains("llm_tls_certificate_expiry")
    );
    let mut host = host(&stage);
    let on_a_mac = Observed { system: "Darwin".to_owned(), ..observed(&mut host, text) };
    assert!(plan(&wanted(text), &on_a_mac).unwrap_err().message.contains("cannot tell the host from the LAN"));
    assert_eq!(certified(&mut host, text, 300), []);
    let renewed = certified(&mut host, text, 380);
    assert!(matches!(&renewed[..], [Step::Certify { names, files: None }] if names.contains(&"localhost".to_owned())));
    // A name that it was not made for is a reason too; what it was made for stays.
    let text = text.replace("[engine]", "[host]\naddress = \"studio.lan\"\n[engine]");
    let second = files(&stage, &text)["nginx/tls.conf"].clone();
    assert_ne!((&first, &certificate), (&second, &read("edge/certificate.pem")), "nginx has to read it again");
    assert_eq!(read("authority.pem"), authority, "clients trust it already");
    assert!(read("edge.json").contains("studio.lan"));
    if !lacks("openssl") {
        let verify = "openssl verify -CAfile root/state/tls/authority.pem root/state/tls/edge/certificate.pem";
        stage.shell(verify).exits(0);
    }
}

#[test]
fn files_from_elsewhere_are_taken_over_when_they_change() {
    if lacks("openssl") {
        return;
    }
    let stage = Stage::new();
    let make = || {
        let words = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 90 -subj /CN=studio";
        stage.shell(&format!("openssl {words} 2>&1")).exits(0);
    };
    let text = format!(
        "[engine]\nruntime = \"docker\"\n[edge]\ntls = \"files\"\ncertificate = {:?}\ncertificate_key = {:?}\n",
        stage.path("cert.pem"),
        stage.path("key.pem")
    );
    let missing = plan(&wanted(&text), &observed(&mut host(&stage), &text)).unwrap_err();
    assert!(missing.message.contains("cannot be read on the host"), "{missing:?}");
    make();
    files(&stage, &text);
    let taken = || fs::read_to_string(stage.root().join("state/tls/edge/certificate.pem")).unwrap();
    assert_eq!(taken(), fs::read_to_string(stage.path("cert.pem")).unwrap());
    assert_eq!(certified(&mut host(&stage), &text, 0), []);
    make();
    assert_eq!(certified(&mut host(&stage), &text, 0).len(), 1);
}
