//! What an attacker finds of a door that is to speak TLS alone: plain speech, versions that are broken, and a certificate that
//! a client who checks would not take.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
};

use stack::process;

use super::audit::{Target, ask};
use crate::doctor::Finding;

const FIX: &str = "cargo xtask deploy; a file of your own in local/nginx may have changed ssl_protocols or a listener";

/// Everything that is wrong with a door.
pub(super) fn findings(target: &Target, port: u16) -> Vec<Finding> {
    if !target.tls {
        return Vec::new();
    }
    let at = SocketAddr::new(target.address, port);
    [plain(at), old(at), certificate(target, at)].into_iter().flatten().collect()
}

fn plain(at: SocketAddr) -> Option<Finding> {
    ask(&format!("http://{at}/api/version"), &[]).filter(|answer| answer.status == 200).map(|_| {
        Finding::new("plain-http", "a door speaks plainly, too")
            .seen(format!("http://{at} answers 200"))
            .because("whoever listens on the network reads keys and prompts")
            .fix(FIX)
    })
}

/// Old versions are refused by many a curl itself, unless it is told to be careless.
fn old(at: SocketAddr) -> Option<Finding> {
    let old = ["--tls-max", "1.1", "--tlsv1.0", "--ciphers", "DEFAULT:@SECLEVEL=0"];
    ask(&format!("https://{at}/"), &old).map(|_| {
        Finding::new("old-tls", "a door speaks a version of TLS that is broken")
            .seen(format!("{at} takes TLS 1.1 or 1.0"))
            .because("what is sent by these can be read by others")
            .fix(FIX)
    })
}

/// Asks as a client does who trusts the host's own authority, or whom this machine trusts, and takes nobody else.
fn certificate(target: &Target, at: SocketAddr) -> Option<Finding> {
    let words = complaint(target, at)?;
    let is = |phrase: &str| words.contains(phrase);
    let (id, symptom, why) = if is("expired") {
        ("certificate-expired", "a door's certificate has ended", "no client that checks takes it")
    } else if is("not yet valid") {
        ("certificate-early", "a door's certificate is not valid yet", "the host's clock, or this one, is wrong")
    } else if is("match") {
        // Where no name is known the address was asked for, for which no certificate need be.
        target.name.as_ref()?;
        (
            "certificate-name",
            "a door's certificate is for another name",
            "clients that know the host by this name refuse it",
        )
    } else {
        (
            "certificate-untrusted",
            "a door's certificate is of nobody whom clients trust",
            "they refuse it, or check nothing",
        )
    };
    let fix = match target.authority {
        Some(_) => "cargo xtask deploy, which makes it anew",
        None => "a new one where `certificate` under [edge] says, then cargo xtask deploy, which takes it over",
    };
    let finding = Finding::new(id, symptom).seen(format!("{at}: {words}"));
    Some(finding.because(why).fix(fix))
}

/// What a curl that checks has against the certificate. `None`: nothing, or it was not about that.
fn complaint(target: &Target, at: SocketAddr) -> Option<String> {
    let mut args = ["-s", "-g", "-o", "/dev/null", "--noproxy", "*", "--max-time", "5"].map(str::to_owned).to_vec();
    args.extend(["-w", "%{exitcode} %{errormsg}"].map(str::to_owned));
    let mut authority = tempfile::NamedTempFile::new().ok()?;
    if let Some(pem) = &target.authority {
        authority.write_all(pem.as_bytes()).ok()?;
        args.extend(["--cacert".to_owned(), authority.path().display().to_string()]);
    }
    let url = match target.name.as_ref().filter(|name| name.parse::<IpAddr>().is_err()) {
        Some(name) => {
            let address = match at {
                SocketAddr::V4(at) => at.ip().to_string(),
                SocketAddr::V6(at) => format!("[{}]", at.ip()),
            };
            args.extend(["--resolve".to_owned(), format!("{name}:{}:{address}", at.port())]);
            format!("https://{name}:{}/", at.port())
        }
        None => format!("https://{at}/"),
    };
    args.push(url);
    let command = process::Command { program: process::find("curl")?, args, env: [].into() };
    let said = process::ask(&command, "").ok()?.stdout;
    // Of the numbers of curl's these are about the peer's certificate; 51 is an old one's for the name.
    let (code, words) = said.split_once(' ')?;
    ["60", "51"].contains(&code).then(|| words.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        path::Path,
        process::{Child, Command, Stdio},
        thread,
        time::{Duration, Instant},
    };

    use stack::component::Component;

    use super::*;
    use crate::{
        harden::{attack, audit::tests::server},
        parts::lacks,
    };

    /// A door behind which openssl speaks TLS, as it is told.
    struct Door {
        server: Child,
        port: u16,
        folder: tempfile::TempDir,
    }

    impl Drop for Door {
        fn drop(&mut self) {
            let _ = self.server.kill();
            let _ = self.server.wait();
        }
    }

    /// The certificate is for `studio.lan`, signed by itself, and good from the first of these times to the second.
    /// `None`: there is no openssl here, or no curl.
    fn door(from: &str, to: &str, speaks: &[&str]) -> Option<Door> {
        if lacks("openssl") || lacks("curl") {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write(
            "ca.cnf",
            "[ca]\ndefault_ca = d\n[d]\ndatabase = index.txt\nserial = serial\nnew_certs_dir = .\npolicy = p\ndefault_md = \
             sha256\nx509_extensions = e\n[p]\ncommonName = supplied\n[e]\nsubjectAltName = DNS:studio.lan\n",
        );
        write("index.txt", "");
        write("serial", "01\n");
        let request = "req -new -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=studio.lan";
        openssl(folder.path(), request);
        let sign = "ca -batch -selfsign -config ca.cnf -in request.pem -keyfile key.pem -notext -out certificate.pem";
        openssl(folder.path(), &format!("{sign} -startdate {from} -enddate {to}"));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        #[expect(clippy::disallowed_methods, reason = "what is tested has to be started from outside")]
        let server = Command::new("openssl")
            .args(["s_server", "-www", "-cert", "certificate.pem", "-key", "key.pem", "-accept"])
            .arg(format!("127.0.0.1:{port}"))
            .args(speaks)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "openssl does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        Some(Door { server, port, folder })
    }

    fn openssl(folder: &Path, line: &str) {
        #[expect(clippy::disallowed_methods, reason = "what is tested has to be started from outside")]
        let done = Command::new("openssl").args(line.split(' ')).current_dir(folder).output().unwrap();
        assert!(done.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// What an attack finds of a door by this name, which trusts its certificate or does not.
    fn found(door: &Door, name: Option<&str>, trusts: bool) -> Vec<String> {
        let authority = trusts.then(|| std::fs::read_to_string(door.folder.path().join("certificate.pem")).unwrap());
        let target = Target {
            address: "127.0.0.1".parse().unwrap(),
            name: name.map(str::to_owned),
            doors: [(Component::Gateway, door.port)].into(),
            tls: true,
            authority,
            inner: [].into(),
        };
        attack(&target).unwrap().into_iter().map(|finding| finding.id).collect()
    }

    const NEW: [&str; 2] = ["20250101000000Z", "20990101000000Z"];

    #[test]
    fn a_certificate_that_ended_or_is_early_for_another_name_or_of_nobody_is_found() {
        let Some(good) = door(NEW[0], NEW[1], &[]) else { return };
        assert_eq!(found(&good, Some("studio.lan"), true), [""; 0]);
        assert_eq!(found(&good, None, true), [""; 0], "nobody knows by which name clients come");
        assert_eq!(found(&good, Some("another.lan"), true), ["certificate-name"]);
        assert_eq!(found(&good, Some("studio.lan"), false), ["certificate-untrusted"]);
        let Some(ended) = door("20200101000000Z", "20210101000000Z", &[]) else { return };
        assert_eq!(found(&ended, Some("studio.lan"), true), ["certificate-expired"]);
        let Some(early) = door("20980101000000Z", NEW[1], &[]) else { return };
        assert_eq!(found(&early, Some("studio.lan"), true), ["certificate-early"]);
    }

    #[test]
    fn a_door_that_speaks_plainly_is_found() {
        if lacks("curl") {
            return;
        }
        let port = server(|_| "200 OK\r\n");
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(plain(at).map(|finding| finding.id).as_deref(), Some("plain-http"));
        let port = server(|_| "308 Permanent Redirect\r\n");
        assert_eq!(plain(SocketAddr::from(([127, 0, 0, 1], port))), None);
    }

    #[test]
    fn versions_that_are_broken_are_found() {
        let Some(door) = door(NEW[0], NEW[1], &["-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"]) else { return };
        assert!(found(&door, Some("studio.lan"), true).contains(&"old-tls".to_owned()));
    }
}
