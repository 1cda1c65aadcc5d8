//! Load on a kmsd of its own over the Unix socket: how many data keys it unwraps a second, how long each takes at half that, and what
//! that costs as the token fills with keys; beside them, in the same run, the rate of an endpoint that does nothing, and that of the token by itself.
//!
//! `tests/bench/load.sh` builds and runs it; docs/performance-kmsd.md says what the figures mean.

mod connection;
mod figures;
mod token;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use harness::Installation;
use serde_json::{Value, json};

use crate::{connection::Connection, figures::Latencies};

/// What the command line says.
struct Options {
    seconds: f64,
    connections: usize,
    keys: Vec<usize>,
    out: Option<PathBuf>,
}

/// Clients of the figure `clients_200`.
const CLIENTS: usize = 200;
/// Sessions of kmsd's pool, unless it is told otherwise.
const SESSIONS: usize = 4;

impl Options {
    fn parse() -> Result<Self, String> {
        let mut options = Self { seconds: 5.0, connections: 32, keys: vec![10, 1000, 5000], out: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            let wrong = || format!("{word} {value}: not a number");
            match word.as_str() {
                "--seconds" => options.seconds = value.parse().map_err(|_| wrong())?,
                "--connections" => options.connections = value.parse().map_err(|_| wrong())?,
                "--keys" => {
                    options.keys =
                        value.split(',').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
                }
                "--out" => options.out = Some(value.into()),
                _ => return Err(format!("{word}: known are --seconds, --connections, --keys and --out")),
            }
        }
        Ok(options)
    }
}

#[allow(clippy::print_stdout)] // the figures are this program's result
fn main() -> Result<(), String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = words.as_slice()
        && first == token::WORD
    {
        println!("{}", token::main(rest)?);
        return Ok(());
    }
    let options = Options::parse()?;
    let ecs = Installation::new();
    let socket = ecs.kmsd().socket().to_owned();
    let time = Duration::from_secs_f64(options.seconds);
    let first = wrapped(&ecs, "load-0");
    let unwrap = Arc::new(post("decrypt-datakey", &first));
    let health = Arc::new(get("/kmsd/v1/health"));

    // What is measured is never the first of its kind.
    closed(&socket, &unwrap, options.connections, Duration::from_millis(300));
    let raw = [1, SESSIONS].map(|sessions| token::decrypts_per_s(ecs.token(), sessions, time));
    let idle = closed(&socket, &health, options.connections, time);
    let full = closed(&socket, &unwrap, options.connections, time);
    let half = open(&socket, &unwrap, options.connections, full.rate() / 2.0, time);
    let fixed = open(&socket, &unwrap, options.connections, 5000.0, time);
    let many_clients = closed(&socket, &unwrap, CLIENTS, time);
    let alone = closed(&socket, &unwrap, 1, time / 2);

    let mut growth = Vec::new();
    let mut made = 1;
    let mut bodies = vec![first];
    for &count in &options.keys {
        // A few of each step are used below; the rest only fill the token, and are made in it directly: that takes a tenth of the time.
        let more = count.saturating_sub(made);
        let used = more.min(10);
        token::fill(ecs.token(), more - used);
        bodies.extend((0..used).map(|number| wrapped(&ecs, &format!("load-{count}-{number}"))));
        made += more;
        let requests: Vec<_> = bodies.iter().map(|body| post("decrypt-datakey", body)).collect();
        let one = closed(&socket, &unwrap, 1, time / 2);
        let many = alternating(&socket, &requests, time / 2);
        growth.push((count, one.mean_us(), many.mean_us()));
    }
    let base = growth.first().map_or(1.0, |(_, one, _)| *one);
    let report = json!({
        "connections": options.connections,
        "health_per_s": idle.rate().round(),
        "unwraps_per_s": full.rate().round(),
        "unwraps_to_health": round(full.rate() / idle.rate()),
        "full": full.json(),
        "half": half.json(),
        "at_5000_per_s": fixed.json(),
        "clients_200": many_clients.json(),
        "one_connection": alone.json(),
        "token_decrypts_per_s": {"sessions_1": raw[0]["per_s"], "sessions_4": raw[1]["per_s"]},
        "by_keys": growth.iter().map(|(keys, one, many)| json!({
            "keys": keys, "one_key_us": round(*one), "all_keys_us": round(*many), "ratio": round(one / base),
        })).collect::<Vec<_>>(),
    });
    println!("{report:#}");
    match &options.out {
        Some(file) => {
            std::fs::write(file, format!("{report:#}\n")).map_err(|e| format!("{}: {e}", file.display()))
        }
        None => Ok(()),
    }
}

/// A key of that name, and the body of a request that unwraps a data key under it.
fn wrapped(ecs: &Installation, alias: &str) -> Value {
    let key = ecs.kms("create-key", &json!({"key_alias": alias})).ok();
    let key = &key["key_info"]["key_id"];
    let context = json!({"volume": "0f8fad5b-d9cb-469f-a165-70867728950e", "purpose": "disk"});
    let made = ecs.kms(
        "create-datakey",
        &json!({"key_id": key, "encryption_context": context, "datakey_length": "256"}),
    );
    json!({
        "key_id": key, "encryption_context": context, "datakey_cipher_length": "32",
        "cipher_text": made.ok()["cipher_text"],
    })
}

fn post(verb: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!(
        "POST /v1.0/default/kms/{verb} HTTP/1.1\r\nhost: kmsd\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: kmsd\r\ncontent-length: 0\r\n\r\n").into_bytes()
}

fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// Each connection sends its next request when it has the answer to the one before.
fn closed(socket: &Path, request: &Arc<Vec<u8>>, connections: usize, time: Duration) -> Latencies {
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let (mut connection, request, stop) =
                (Connection::open(socket), Arc::clone(request), Arc::clone(&stop));
            thread::spawn(move || {
                let mut seen = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let sent = Instant::now();
                    connection.ask(&request);
                    seen.push(sent.elapsed());
                }
                seen
            })
        })
        .collect();
    thread::sleep(time);
    stop.store(true, Ordering::Relaxed);
    Latencies::new(
        threads.into_iter().flat_map(|t| t.join().expect("no request fails")).collect(),
        began.elapsed(),
    )
}

/// Requests are due at a fixed rate, whether or not the ones before have been answered; each one's time runs from when it was due.
fn open(socket: &Path, request: &Arc<Vec<u8>>, connections: usize, rate: f64, time: Duration) -> Latencies {
    let step = Duration::from_secs_f64(f64::from(u32::try_from(connections).expect("a few")) / rate);
    let began = Instant::now();
    let threads: Vec<_> = (0..connections)
        .map(|number| {
            let (mut connection, request) = (Connection::open(socket), Arc::clone(request));
            let number = u32::try_from(number).expect("a few");
            let offset =
                step.mul_f64(f64::from(number) / f64::from(u32::try_from(connections).expect("a few")));
            thread::spawn(move || {
                let mut seen = Vec::new();
                let mut due = began + offset;
                while due < began + time {
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    connection.ask(&request);
                    seen.push(due.elapsed());
                    due += step;
                }
                seen
            })
        })
        .collect();
    Latencies::new(
        threads.into_iter().flat_map(|t| t.join().expect("no request fails")).collect(),
        began.elapsed(),
    )
}

/// One connection, one request after the other, of many kinds.
fn alternating(socket: &Path, requests: &[Vec<u8>], time: Duration) -> Latencies {
    let mut connection = Connection::open(socket);
    // Each key once, so that its handle is known.
    requests.iter().for_each(|request| connection.ask(request));
    let began = Instant::now();
    let mut seen = Vec::new();
    for request in requests.iter().cycle() {
        let sent = Instant::now();
        connection.ask(request);
        seen.push(sent.elapsed());
        if began.elapsed() > time {
            break;
        }
    }
    Latencies::new(seen, began.elapsed())
}
