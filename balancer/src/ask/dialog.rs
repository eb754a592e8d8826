//! Talks: what is sent to a server, and what is expected of it.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Failure, READ_MAX, excerpt};
use crate::config::{Pattern, Step};

/// Room for what comes at a time, in bytes.
const READ: usize = 4096;

/// A talk with a server. It outlives the question, so that it can tell how far that got.
#[derive(Debug, Default)]
pub struct Talk {
    heard: Vec<u8>,
    /// So much of it has been matched.
    matched: usize,
    /// What is waited for.
    wanted: Option<Pattern>,
}

impl Talk {
    /// Goes through `steps`. The text says what matched last.
    ///
    /// # Errors
    ///
    /// The connection ended first, or something came that doesn't end.
    pub async fn follow<S>(&mut self, mut stream: S, steps: &[Step]) -> Result<String, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut last = 0..0;
        for step in steps {
            match step {
                Step::Send(text) => {
                    stream
                        .write_all(text.as_bytes())
                        .await
                        .map_err(Failure::Broken)?;
                    stream.flush().await.map_err(Failure::Broken)?;
                }
                Step::Expect(pattern) => {
                    self.wanted = Some(pattern.clone());
                    self.wait(&mut stream, pattern).await?;
                    last = self.matched..self.heard.len();
                    self.wanted = None;
                }
            }
        }
        // A server may log those who just vanish. That it hangs up first is fine.
        let _ = stream.shutdown().await;
        last.start = self.heard[..last.start]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |newline| newline + 1);
        Ok(format!("answered {:?}", excerpt(&self.heard[last])))
    }

    /// What was waited for and what came instead. Nothing, if nothing was.
    pub fn waiting(&self) -> String {
        self.wanted.as_ref().map_or_else(String::new, |pattern| {
            let pattern = pattern.regex().as_str();
            match excerpt(&self.heard[self.matched..]) {
                came if came.is_empty() => format!("waited for '{pattern}', nothing came"),
                came => format!("waited for '{pattern}', what came is {came:?}"),
            }
        })
    }

    async fn wait<S>(&mut self, stream: &mut S, pattern: &Pattern) -> Result<(), Failure>
    where
        S: AsyncRead + Unpin,
    {
        loop {
            if let Some(found) = pattern.regex().find_at(&self.heard, self.matched) {
                self.matched = found.end();
                return Ok(());
            }
            if self.heard.len() > READ_MAX {
                return Err(Failure::TooMuch);
            }
            self.heard.reserve(READ);
            if stream
                .read_buf(&mut self.heard)
                .await
                .map_err(Failure::Broken)?
                == 0
            {
                return Err(Failure::HungUp(self.waiting()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    fn expect(pattern: &str) -> Step {
        Step::Expect(pattern.parse().unwrap())
    }

    fn send(text: &str) -> Step {
        Step::Send(text.to_owned())
    }

    /// A talk with a server that says all of this at once, and hangs up.
    async fn talk(said: &[u8], steps: &[Step]) -> Result<String, String> {
        let (stream, mut server) = duplex(2 * READ_MAX);
        server.write_all(said).await.unwrap();
        server.shutdown().await.unwrap();
        let mut talk = Talk::default();
        let answer = talk.follow(stream, steps).await;
        answer.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn each_match_begins_where_the_last_one_ended() {
        let said = b"220-hello\r\n220 mail.example\r\n250-SIZE\r\n250 HELP\r\n221 bye\r\n";
        let steps = [
            expect("^220 "),
            send("EHLO x\r\n"),
            expect("^250 "),
            expect("^221 "),
        ];
        assert_eq!(talk(said, &steps).await, Ok("answered \"221 bye\"".into()));
        let twice = [expect("^250 "), expect("^250 ")];
        assert_eq!(
            talk(said, &twice).await,
            Err("hung up; waited for '^250 ', what came is \"HELP\"".into())
        );
    }

    #[tokio::test]
    async fn what_came_instead_is_told() {
        let steps = [expect("^220 ")];
        assert_eq!(
            talk(b"554 no\x1b[2J service\r\n", &steps).await,
            Err("hung up; waited for '^220 ', what came is \"554 no?[2J service\"".into())
        );
        assert_eq!(
            talk(b"", &steps).await,
            Err("hung up; waited for '^220 ', nothing came".into())
        );
    }

    #[tokio::test]
    async fn what_never_ends_is_not_heard_out() {
        let flood = vec![b'x'; READ_MAX + 1];
        assert_eq!(
            talk(&flood, &[expect("^220 ")]).await,
            Err("said more than 64 KiB".into())
        );
    }

    #[tokio::test]
    async fn steps_are_sent_as_they_are_written() {
        let (stream, mut server) = duplex(100);
        server.write_all(b"+PONG\r\n").await.unwrap();
        let steps = [send("PING\r\n"), expect(r"^\+PONG$")];
        let answer = Talk::default().follow(stream, &steps).await.unwrap();
        assert_eq!(answer, "answered \"+PONG\"");
        let mut sent = String::new();
        server.read_to_string(&mut sent).await.unwrap();
        assert_eq!(sent, "PING\r\n");
    }
}
