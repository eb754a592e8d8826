//! The daemon's side.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::{Answer, Request};
use crate::run_dir::RunDir;

/// A request is a line; who sends more is no command of ours.
const MAX_REQUEST: u64 = 64 * 1024;

/// Time for a command to send its request and to take its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The listening socket. It is removed when this is dropped.
pub struct Server {
    path: PathBuf,
    listener: UnixListener,
    questions: (mpsc::Sender<Question>, mpsc::Receiver<Question>),
    conversations: JoinSet<()>,
    /// Goes after the socket, which is in it.
    _directory: RunDir,
}

/// A request, and where its answer goes.
pub struct Question {
    /// The request.
    pub request: Request,
    /// Where its answer goes.
    pub answer: oneshot::Sender<Answer>,
}

impl Server {
    /// Listens at `path`, for root alone.
    ///
    /// # Errors
    ///
    /// Another daemon listens there already, or the socket can't be made.
    pub fn open(path: &Path) -> Result<Self> {
        if StdStream::connect(path).is_ok() {
            bail!(
                "another balancer is running: its control socket is {}. `balancer status` shows it; for a second one on \
                 this host use --control, --pin-dir and a network namespace of its own",
                path.display()
            );
        }
        let directory = RunDir::of(path)?;
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(path)
                .with_context(|| format!("cannot replace {}", path.display()))?,
            Ok(_) => bail!(
                "{} is there and is no socket: name another --control",
                path.display()
            ),
            Err(_) => {}
        }
        let listener = UnixListener::bind(path)
            .with_context(|| format!("cannot listen at {}", path.display()))?;
        let server = Self {
            path: path.to_owned(),
            listener,
            questions: mpsc::channel(16),
            conversations: JoinSet::new(),
            _directory: directory,
        };
        fs::set_permissions(path, Permissions::from_mode(0o600))
            .with_context(|| format!("cannot restrict {}", path.display()))?;
        Ok(server)
    }

    /// The next question. Cancel-safe.
    pub async fn next(&mut self) -> Question {
        loop {
            tokio::select! {
                Some(question) = self.questions.1.recv() => return question,
                Some(_) = self.conversations.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let questions = self.questions.0.clone();
                        self.conversations.spawn(async move {
                            // Who doesn't finish in time, or hangs up, gets nothing.
                            let _ = tokio::time::timeout(PATIENCE, serve(stream, questions)).await;
                        });
                    }
                    Err(error) => {
                        log::warn!("the control socket: {error}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }
}

impl Server {
    /// Gives those who have their answers the time to take them.
    pub async fn finish(&mut self) {
        // Requests that nobody will answer any more.
        self.questions.1.close();
        while self.questions.1.recv().await.is_some() {}
        while self.conversations.join_next().await.is_some() {}
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already; nothing to do about it either way.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes the socket that a daemon left which was killed, and its directory if that is the usual one and empty.
pub fn forget(path: &Path) -> Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    // A daemon may have been started meanwhile.
    if is_socket && StdStream::connect(path).is_err() {
        let dir = RunDir::of(path)?;
        fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
        drop(dir);
    }
    Ok(())
}

async fn serve(mut stream: UnixStream, questions: mpsc::Sender<Question>) -> Result<()> {
    let mut request = Vec::new();
    (&mut stream)
        .take(MAX_REQUEST)
        .read_to_end(&mut request)
        .await?;
    let answer = match serde_json::from_slice(&request) {
        // Whoever the socket's file lets in.
        _ if stream.peer_cred()?.uid() != 0 => Answer::Refused("only root may".into()),
        Err(error) => Answer::Refused(format!("not a request that this daemon knows: {error}")),
        Ok(request) => {
            let (answer, answered) = oneshot::channel();
            questions.send(Question { request, answer }).await?;
            answered.await?
        }
    };
    stream.write_all(&serde_json::to_vec(&answer)?).await?;
    stream.shutdown().await?;
    Ok(())
}
