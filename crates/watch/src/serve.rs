//! A small server of the page, for this machine alone.

use crate::page::page;
use crate::run::Runs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Connections that are answered at the same time.
const MOST: usize = 32;
/// Most bytes of a request.
const LONGEST: u64 = 16 << 10;
/// How often the files of the runs are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Serves the page on 127.0.0.1.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    runs: Arc<Runs>,
}

impl Server {
    /// Takes a port; with 0 any that is free.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn bind(port: u16, runs: Runs) -> io::Result<Self> {
        Ok(Server { listener: TcpListener::bind((Ipv4Addr::LOCALHOST, port))?, runs: Arc::new(runs) })
    }

    /// Where the page is.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers requests until the process ends.
    pub fn run(&self) {
        let open = Arc::new(AtomicUsize::new(0));
        for stream in self.listener.incoming().flatten() {
            if open.fetch_add(1, Ordering::Relaxed) >= MOST {
                open.fetch_sub(1, Ordering::Relaxed);
                let _ = respond(&stream, "503 Service Unavailable", "text/plain", b"too many connections\n");
                continue;
            }
            let (runs, open) = (self.runs.clone(), open.clone());
            std::thread::spawn(move || {
                // A reader that goes away in the middle is no error of ours.
                let _ = answer(&stream, &runs);
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }
}

/// Whether a request names this machine: a page of another site, whose name an attacker may point here, must not read runs.
fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    matches!(name, "localhost" | "127.0.0.1")
}

fn answer(stream: &TcpStream, runs: &Runs) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    let mut lines = BufReader::new(stream.take(LONGEST)).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut host = None;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("host")
        {
            host = Some(value.trim().to_string());
        }
    }
    let mut words = first.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !host.is_some_and(|h| is_local(&h)) {
        return respond(stream, "403 Forbidden", "text/plain", b"only for this machine\n");
    }
    if method != "GET" {
        return respond(stream, "405 Method Not Allowed", "text/plain", b"only GET\n");
    }
    let path = target.split('?').next().unwrap_or_default();
    match path {
        "/" => respond(stream, "200 OK", "text/html; charset=utf-8", page(&runs.json(false)).as_bytes()),
        "/data" => respond(stream, "200 OK", "application/json", runs.json(false).to_string().as_bytes()),
        "/events" => events(stream, runs),
        _ => {
            let parts: Vec<&str> = path.split('/').collect();
            let picture = match parts[..] {
                ["", "picture", run, name] => run.parse().ok().and_then(|r| runs.picture(r, &decoded(name))),
                _ => None,
            };
            match picture {
                Some(bytes) => respond(stream, "200 OK", "image/png", &bytes),
                None => respond(stream, "404 Not Found", "text/plain", b"not here\n"),
            }
        }
    }
}

/// A part of an address with `%20` and its like as bytes.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (vec![], text.as_bytes());
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        (rest, _) = match (first, hex) {
            (b'%', Some(b)) => (&tail[2..], bytes.push(b)),
            _ => (tail, bytes.push(*first)),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn respond(mut stream: &TcpStream, status: &str, kind: &str, body: &[u8]) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}

/// Sends the data whenever a file changes, and a comment now and then, by which a reader that has gone is noticed.
fn events(mut stream: &TcpStream, runs: &Runs) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\r\n")?;
    let (mut seen, mut sent) = (None, Instant::now());
    loop {
        let stamp = runs.stamp();
        if seen != Some(stamp) {
            seen = Some(stamp);
            stream.write_all(format!("data: {}\n\n", runs.json(false)).as_bytes())?;
            sent = Instant::now();
        } else if sent.elapsed() > Duration::from_secs(15) {
            stream.write_all(b": still here\n\n")?;
            sent = Instant::now();
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::sample;

    fn ask(at: SocketAddr, request: &str) -> String {
        let mut s = TcpStream::connect(at).unwrap();
        s.write_all(request.as_bytes()).unwrap();
        let mut text = vec![];
        s.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }

    #[test]
    fn the_page_is_served_to_this_machine_alone_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        sample(dir.path());
        std::fs::write(dir.path().join("secret.txt"), "no").unwrap();
        let server = Server::bind(0, Runs::find(&[dir.path().into()]).unwrap()).unwrap();
        let at = server.address().unwrap();
        assert!(at.ip().is_loopback());
        std::thread::spawn(move || server.run());
        let get = |path: &str| ask(at, &format!("GET {path} HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", at.port()));
        assert!(get("/").contains("200 OK") && get("/").contains("uPlot"));
        assert!(get("/data").contains("\"test_acc1\":50.0"));
        assert!(get("/picture/0/picture.png?12").contains("image/png"));
        for path in
            ["/secret.txt", "/picture/0/../secret.txt", "/picture/0/..%2fsecret.txt", "/picture/7/picture.png", "//"]
        {
            assert!(get(path).contains("404"), "{path}");
        }
        let other = |head: &str| ask(at, &format!("{head}\r\n\r\n"));
        assert!(other("POST / HTTP/1.1\r\nHost: localhost").contains("405"));
        assert!(other("GET / HTTP/1.1\r\nHost: evil.example").contains("403"));
        assert!(other("GET / HTTP/1.1").contains("403"));
        assert!(ask(at, "\r\n\r\n").contains("403"));
        // Changes of files are sent to who listens.
        let mut s = TcpStream::connect(at).unwrap();
        s.write_all(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
        let mut lines = BufReader::new(s).lines().map_while(Result::ok).filter(|l| l.starts_with("data:"));
        assert!(lines.next().unwrap().contains("test_acc1"));
        std::fs::write(dir.path().join("log.txt"), "{\"epoch\":0,\"test_acc1\":75.5}\n").unwrap();
        assert!(lines.next().unwrap().contains("75.5"));
    }
}
