//! The peer of `benches/mail.py`: a plain loop over lettre's pool, which keeps no record of what it has sent.
//!
//! `mail PORT COUNT CONNECTIONS` sends COUNT mails to the server on that port and prints `SECONDS CPU`: how long it took,
//! and the user and system seconds of this process.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods, reason = "a program of its own")]

use std::time::Instant;

use futures::StreamExt;
use lettre::transport::smtp::PoolConfig;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

fn message(number: u64) -> Message {
    Message::builder()
        .from("afterload <afterload@localhost>".parse().unwrap())
        .to(format!("user{number}@example.com").parse().unwrap())
        .subject("News")
        .message_id(Some(format!("<{number}@localhost>")))
        .body("There are news.\n".to_owned())
        .unwrap()
}

/// User and system time of this process with all its threads, in seconds.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

#[tokio::main]
async fn main() {
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [port, count, connections] = args.as_slice() else {
        println!("run `python3 benches/mail.py`");
        return;
    };
    let (count, connections): (u64, usize) = (count.parse().unwrap(), connections.parse().unwrap());
    let pool = PoolConfig::new().max_size(connections as u32);
    let transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous("127.0.0.1");
    let transport = transport.port(port.parse().unwrap()).pool_config(pool).build();
    let begun = (Instant::now(), cpu());
    let sends = futures::stream::iter(1..=count).map(|number| transport.send(message(number)));
    sends
        .buffer_unordered(connections)
        .for_each(|sent| async move {
            drop(sent.unwrap());
        })
        .await;
    println!("{} {}", begun.0.elapsed().as_secs_f64(), cpu() - begun.1);
}
