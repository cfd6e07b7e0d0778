//! People who are told of alerts: each speaks just enough of its protocol to take one, on a port of its own.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc::{Receiver, channel},
    thread,
};

use serde_json::Value;

/// Takes what is posted, answering with `status`; gives the heads and bodies.
pub(crate) fn hook(status: &'static str) -> (String, Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (sender, taken) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream);
            let (mut head, mut length) = (String::new(), 0);
            while reader.read_line(&mut head).is_ok_and(|read| read > 2) {
                let last = head.lines().last().unwrap_or_default().to_lowercase();
                if let Some(value) = last.strip_prefix("content-length: ") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            let _ = reader.read_exact(&mut body);
            let _ = write!(reader.get_mut(), "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            if sender.send((head, serde_json::from_slice(&body).unwrap_or_default())).is_err() {
                return;
            }
        }
    });
    (url, taken)
}

/// A mail server that wants a password. Gives its address, and all that a client said for each mail.
pub(crate) fn mail() -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, taken) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever connects only to look says nothing.
            if let Some(mail) = take_mail(stream)
                && sender.send(mail).is_err()
            {
                return;
            }
        }
    });
    (address, taken)
}

fn take_mail(mut stream: TcpStream) -> Option<String> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let mut said = String::new();
    let mut is_text = false;
    stream.write_all(b"220 here\r\n").ok()?;
    while let Some(Ok(line)) = lines.next() {
        said.push_str(&line);
        said.push('\n');
        let reply = match (is_text, line.split(' ').next().unwrap_or_default()) {
            (true, ".") => "250 taken",
            (true, _) => continue,
            (false, "EHLO") => "250-here\r\n250 AUTH PLAIN",
            (false, "AUTH") => "235 you are",
            (false, "DATA") => "354 go on",
            (false, "QUIT") => {
                stream.write_all(b"221 bye\r\n").ok()?;
                break;
            }
            (false, _) => "250 well",
        };
        is_text = reply.starts_with("354");
        stream.write_all(format!("{reply}\r\n").as_bytes()).ok()?;
    }
    said.contains("\n.\n").then_some(said)
}
