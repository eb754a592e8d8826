//! A web server that can do so much and no more: some workers, each request a time on one of them, the others in a queue.
//!
//! Nine requests of ten take 10 ms and one takes 100 ms, at random. The time is slept: several such servers on one machine
//! don't take it from each other.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;

/// Answers HTTP requests, each on a connection of its own, after some time.
#[derive(Parser)]
struct Arguments {
    /// What the server is called in its answers
    name: String,
    /// Port to listen on
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Requests that are worked on at one time
    #[arg(long, default_value_t = 8)]
    workers: usize,
    /// Each request takes so many times as long
    #[arg(long, default_value_t = 1)]
    slow: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket
        .bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, arguments.port)))
        .with_context(|| format!("cannot listen on port {}", arguments.port))?;
    let listener = socket.listen(4096)?;
    // A fair one: first come, first served.
    let workers = Arc::new(Semaphore::new(arguments.workers));
    let answer = format!(
        "HTTP/1.1 200 OK\r\nX-Server: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        arguments.name
    );
    let answer: Arc<[u8]> = answer.into_bytes().into();
    let mut random = fastrand::Rng::with_seed(1);
    loop {
        let (stream, _) = listener.accept().await?;
        let work = Duration::from_millis(if random.f64() < 0.9 { 10 } else { 100 });
        let (workers, answer) = (Arc::clone(&workers), Arc::clone(&answer));
        let work = work * arguments.slow;
        tokio::spawn(async move {
            // A client that has gone away is its own affair; its work is done all the same.
            let _ = serve(stream, &workers, work, &answer).await;
        });
    }
}

async fn serve(
    mut stream: TcpStream,
    workers: &Semaphore,
    work: Duration,
    answer: &[u8],
) -> Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && request.len() < 8192 {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    {
        let _worker = workers.acquire().await?;
        sleep(work).await;
    }
    stream.write_all(answer).await?;
    stream.shutdown().await?;
    Ok(())
}
