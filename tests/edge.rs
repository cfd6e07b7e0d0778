//! The edge's files in a real nginx: what it lets through, what it stops, and what it tells.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    thread,
};

use rustix::process::Signal;
use stack::{
    declare::{Wanted, question},
    host::Host,
    layout::Root,
    observed::{Docker, Engine},
    plan::plan,
    protocol::{Reply, Request},
    settings::Settings,
};

use crate::stage::{Job, Ran, Stage, is_root, lacks, system, take_ports, until};

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
        let [_, api, lan_grafana, lan_prometheus, _] = ports;
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
            stage
                .write(&format!("nginx/{name}"), &lines.collect::<String>().replace("/tmp/", &format!("{temporary}/")));
        }
        fs::create_dir_all(stage.path("temporary")).unwrap();
        let user = if is_root() { "user root;" } else { "" };
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

/// What a deploy to this machine would give the edge.
fn files(stage: &Stage, text: &str) -> BTreeMap<String, String> {
    let settings = Settings::parse(text, Path::new("stack.toml")).unwrap();
    let program = || "program".to_owned();
    let root = Root::new(stage.root());
    let mut host = Host { root, program: stage.program().to_owned(), program_id: program(), password: None };
    let question = question(&settings, "program");
    let images = question.images.clone().unwrap().into_iter().map(|image| (image.clone(), image)).collect();
    let Reply::Observed(mut observed) = host.answer(Request::Observe(question), &mut |_| Ok(())).unwrap() else {
        panic!("no observation")
    };
    let engine = Engine::Answers { version: "24.0.0".to_owned(), compose: Some("2.26.0".to_owned()) };
    observed.docker = Some(Docker { engine, images, remnants: Vec::new(), misplaced: false });
    let source = [("stack.toml".to_owned(), text.to_owned())].into();
    plan(&Wanted { settings, source, program: program() }, &observed).unwrap().1
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
    let Some(edge) = Edge::new("") else { return };
    let many = |address: &str| {
        let url = format!("http://{address}:{}/api/tags?[1-900]", edge.api);
        let ran = edge.curl(&format!("--parallel --parallel-max 50 -o /dev/null -w '%{{http_code}}\\n' '{url}'"));
        ran.stdout.lines().filter(|status| *status == "429").count()
    };
    assert_eq!(many("127.0.0.1"), 0);
    let Some(address) = lan_address() else { return };
    assert!(many(&address) > 0, "nobody was turned away");
}

/// An address of this machine that is not loopback.
fn lan_address() -> Option<String> {
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    // One of the networks that the default settings let in.
    (!address.is_loopback()).then(|| address.to_string())
}

#[test]
fn whoever_is_in_no_network_of_the_allowlist_is_shut_out_by_both_families() {
    if !is_root() || lacks("ip") {
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
