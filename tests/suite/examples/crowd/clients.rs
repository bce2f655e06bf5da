//! The clients: plain sockets, so that what is measured is the other side.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const BODY: &str = r#"{"messages":[{"role":"user","content":"hello"}],"ext":{"mode":"final"}}"#;
/// Nothing takes longer, unless it is lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// What one client was given.
#[derive(Default)]
pub(crate) struct Served {
    pub(crate) latencies: Vec<Duration>,
    pub(crate) failed: usize,
}

impl Served {
    fn note(&mut self, outcome: io::Result<bool>, begun: Instant) -> io::Result<()> {
        if outcome? {
            self.latencies.push(begun.elapsed());
        } else {
            self.failed += 1;
        }
        Ok(())
    }
}

/// Asks again and again on one connection, not sooner than `every` after the last time.
pub(crate) fn http_client(address: &str, every: Duration, over: &AtomicBool) -> Served {
    let mut served = Served::default();
    let outcome = (|| {
        let mut stream = connect(address)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        while !over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            stream.write_all(post(BODY).as_bytes())?;
            served.note(read_answer(&mut reader), begun)?;
            std::thread::sleep(every.saturating_sub(begun.elapsed()));
        }
        io::Result::Ok(())
    })();
    served.failed += usize::from(outcome.is_err());
    served
}

/// How a client that was given a long answer reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As it comes.
    Brisk,
    /// A byte now and then.
    Slow,
}

impl Pace {
    /// Reads in this way until it is over; gives the bytes that it took.
    fn read(self, stream: &mut TcpStream, over: &AtomicBool) -> io::Result<usize> {
        let (mut taken, mut buffer) = (0, [0; 64 << 10]);
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        while !over.load(Ordering::Relaxed) {
            let room = if self == Self::Slow { 1 } else { buffer.len() };
            match stream.read(&mut buffer[..room]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => taken += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if self == Self::Slow {
                std::thread::sleep(Duration::from_millis(500));
            }
        }
        Ok(taken)
    }
}

/// Asks for a long answer over HTTP.
pub(crate) fn http_reader(address: &str, pace: Pace, over: &AtomicBool) {
    let body =
        r#"{"messages":[{"role":"user","content":"hello"}],"stream":true,"max_tokens":9000000}"#;
    let taken = connect(address).and_then(|mut stream| {
        stream.write_all(post(body).as_bytes())?;
        pace.read(&mut stream, over)
    });
    if let Err(error) = taken {
        eprintln!("a {pace:?} reader over HTTP was cut off: {error}");
    }
}

/// Asks for a long answer over MQTT; a watcher subscribes to the answers of all others, too.
pub(crate) fn mqtt_reader(address: &str, name: &str, watches: bool, pace: Pace, over: &AtomicBool) {
    let filter = if watches { WATCHED.to_owned() } else { replies_of(name) };
    let taken = Link::open(address, name, &filter).and_then(|mut link| {
        // It ends by itself, should the cancel be lost.
        let body = r#"{"messages":[{"role":"user","content":"hello"}],"stream":true,
            "max_tokens":9000000,"ext":{"flush_ms":10,"ttl_s":120}}"#;
        link.publish(&format!("zonda/v1/crowd/box/chat/request/{name}/long"), body)?;
        pace.read(&mut link.stream, over)
    });
    // On a line of its own: what lies unread on the other makes its close an abrupt one, which takes
    // along what was sent before.
    let cancelled =
        Link::open(address, &format!("{name}x"), &replies_of("nobody")).and_then(|mut link| {
            link.confirmed(&format!("zonda/v1/crowd/box/chat/cancel/{name}/long"))
        });
    let taken = taken.and_then(|bytes| cancelled.map(|()| bytes));
    if let Err(error) = taken {
        eprintln!("a {pace:?} reader over MQTT was cut off: {error}");
    }
}

/// As [`http_client`], over MQTT 3.1.1.
pub(crate) fn mqtt_client(address: &str, name: &str, every: Duration, over: &AtomicBool) -> Served {
    let mut served = Served::default();
    let outcome = Link::open(address, name, &replies_of(name)).and_then(|mut link| {
        let mut request = 0_u64;
        while !over.load(Ordering::Relaxed) {
            request += 1;
            let begun = Instant::now();
            let topic = format!("zonda/v1/crowd/box/chat/request/{name}/{request}");
            link.publish(&topic, BODY)?;
            served.note(wait_for_end(&mut link.reader), begun)?;
            std::thread::sleep(every.saturating_sub(begun.elapsed()));
        }
        Ok(())
    });
    served.failed += usize::from(outcome.is_err());
    served
}

/// The answers of all clients.
const WATCHED: &str = "zonda/v1/crowd/client/+/reply/+";

fn replies_of(name: &str) -> String {
    format!("zonda/v1/crowd/client/{name}/reply/+")
}

/// A connection with one subscription.
struct Link {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Link {
    fn open(address: &str, name: &str, filter: &str) -> io::Result<Self> {
        let mut stream = connect(address)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let connect = [text("MQTT"), vec![4, 2, 0, 60], text(name)].concat();
        stream.write_all(&packet(0x10, &connect))?;
        wait_for(&mut reader, 2)?;
        stream.write_all(&packet(0x82, &[vec![0, 1], text(filter), vec![0]].concat()))?;
        wait_for(&mut reader, 9)?;
        Ok(Self { stream, reader })
    }

    /// Publishes nothing at QoS 1, and waits until the broker has it.
    fn confirmed(&mut self, topic: &str) -> io::Result<()> {
        self.stream.write_all(&packet(0x32, &[text(topic), vec![0, 7]].concat()))?;
        wait_for(&mut self.reader, 4)
    }

    fn publish(&mut self, topic: &str, payload: &str) -> io::Result<()> {
        self.stream.write_all(&packet(0x30, &[text(topic), payload.into()].concat()))
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn post(body: &str) -> String {
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n\
         {body}"
    )
}

/// Whether it was a good one.
fn read_answer(reader: &mut impl BufRead) -> io::Result<bool> {
    let (mut first, mut line) = (String::new(), String::new());
    reader.read_line(&mut first)?;
    let mut length = 0;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(found) = line.strip_prefix("content-length: ") {
            length = found.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    reader.read_exact(&mut vec![0; length])?;
    Ok(first.contains(" 200 "))
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap().to_be_bytes();
    [&length[..], text.as_bytes()].concat()
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind];
    let mut rest = body.len();
    loop {
        let digit = (rest % 128) as u8;
        rest /= 128;
        packet.push(if rest > 0 { digit | 0x80 } else { digit });
        if rest == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}

/// The next packet: its kind and its body.
fn read_packet(reader: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut byte = [0];
    reader.read_exact(&mut byte)?;
    let kind = byte[0] >> 4;
    let (mut length, mut shift) = (0_usize, 0);
    loop {
        reader.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((kind, body))
}

fn wait_for(reader: &mut impl Read, wanted: u8) -> io::Result<()> {
    while read_packet(reader)?.0 != wanted {}
    Ok(())
}

/// Waits for the message that ends the answer; whether it was a good one.
fn wait_for_end(reader: &mut impl Read) -> io::Result<bool> {
    loop {
        let (kind, body) = read_packet(reader)?;
        let body = String::from_utf8_lossy(&body);
        if kind == 3 && body.contains("\"fin\":true") {
            return Ok(body.contains("\"choices\""));
        }
    }
}
