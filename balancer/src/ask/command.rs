//! Commands: in a process group of their own, which ends with them.

use std::io::{self, pipe};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::io::AsyncReadExt as _;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};

use super::{Failure, READ_MAX, excerpt};
use crate::config::CommandLine;

/// Runs commands, one at a time.
#[derive(Default)]
pub struct Runner {
    /// The last one. It may be a while until it has ended after it was killed: on a disk that doesn't answer, say.
    last: Option<Group>,
}

impl Runner {
    /// Runs a command to its end. Returns what it printed, to standard output and error.
    ///
    /// Whatever it started and left in its process group is killed when it ends, and all of it when this is dropped, or when
    /// it prints too much. It isn't started before the one before it is gone.
    ///
    /// # Errors
    ///
    /// It could not be started, didn't end with 0, or printed more than [`READ_MAX`].
    pub async fn run(&mut self, command: &CommandLine) -> Result<Vec<u8>, Failure> {
        if let Some(last) = &mut self.last {
            last.child.wait().await.map_err(Failure::Broken)?;
        }
        let failed = |error| Failure::Start(command.program.clone(), error);
        let (group, printed) = Group::start(command).map_err(failed)?;
        let turn = Turn(self.last.insert(group));
        let leader = turn.0.leader().map_err(failed)?;
        let output = read(printed, &leader).await?;
        turn.0.kill();
        let status = turn.0.child.wait().await.map_err(Failure::Broken)?;
        if status.success() {
            Ok(output)
        } else {
            Err(Failure::Ended(status, excerpt(&output)))
        }
    }
}

/// What a command prints until it ends.
async fn read(mut printed: Receiver, leader: &AsyncFd<OwnedFd>) -> Result<Vec<u8>, Failure> {
    let mut output = Vec::new();
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            read = printed.read_buf(&mut output), if open => {
                open = read.map_err(Failure::Broken)? > 0;
                if output.len() > READ_MAX {
                    return Err(Failure::TooMuch);
                }
            }
            ended = leader.readable() => {
                let _ = ended.map_err(Failure::Broken)?;
                return Ok(output);
            }
        }
    }
}

/// A command while it is waited for. Killed when this is dropped.
struct Turn<'a>(&'a mut Group);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// A command and all that it starts. Killed when this is dropped.
struct Group {
    child: Child,
}

impl Group {
    fn start(command: &CommandLine) -> io::Result<(Self, Receiver)> {
        let (reader, writer) = pipe()?;
        let child = Command::new(&command.program)
            .args(&command.arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .spawn()?;
        let group = Self { child };
        Ok((group, Receiver::from_owned_fd(reader.into())?))
    }

    /// Becomes readable when the command itself has ended. It is not waited for by that: until then its id, which is its
    /// group's too, is nobody else's.
    fn leader(&self) -> io::Result<AsyncFd<OwnedFd>> {
        let id = self
            .child
            .id()
            .and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        let id = id.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let leader = pidfd_open(id, PidfdFlags::NONBLOCK)?;
        // SAFETY: `leader` owns its descriptor for as long as it lives.
        Ok(unsafe { AsyncFd::register(leader)? })
    }

    fn kill(&self) {
        // No id: it has been waited for.
        if let Some(id) = self.child.id() {
            // Fails where nothing is left of it.
            let _ = killpg(Pid::from_raw(id.cast_signed()), Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tokio::time::{sleep, timeout};

    use super::*;

    /// Longer than anything here takes on a busy machine.
    const LONG: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> CommandLine {
        CommandLine {
            program: "/bin/sh".to_owned(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
        }
    }

    async fn outcome(script: &str) -> Result<String, String> {
        let ended = timeout(LONG, Runner::default().run(&shell(script)))
            .await
            .expect("it ends");
        ended
            .map(|output| String::from_utf8_lossy(&output).into_owned())
            .map_err(|error| error.to_string())
    }

    /// Whether a process runs. One that has ended may stay as a zombie where nobody waits for it.
    fn runs(id: &str) -> bool {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
    }

    #[tokio::test]
    async fn tells_how_it_ended_and_what_it_printed() {
        assert_eq!(
            outcome("echo fine; echo also >&2").await,
            Ok("fine\nalso\n".into())
        );
        assert_eq!(outcome("").await, Ok(String::new()));
        assert_eq!(
            outcome("echo no disk; exit 2").await,
            Err("ended with 2: no disk".into())
        );
        assert_eq!(
            outcome("kill -9 $$").await,
            Err("ended with signal: 9 (SIGKILL)".into())
        );
        assert_eq!(
            outcome("printf '\\033[2J\\377\\000x'; exit 1").await,
            Err("ended with 1: ?[2J\u{fffd}?x".into())
        );
        let missing = CommandLine {
            program: "/nowhere/check".to_owned(),
            arguments: Vec::new(),
        };
        assert_eq!(
            Runner::default()
                .run(&missing)
                .await
                .unwrap_err()
                .to_string(),
            "cannot run /nowhere/check: No such file or directory (os error 2)"
        );
    }

    #[tokio::test]
    async fn ten_megabytes_are_too_much_and_end_it() {
        let flood = outcome("head -c 10000000 /dev/zero").await;
        assert_eq!(flood, Err("said more than 64 KiB".into()));
        assert_eq!(outcome("yes").await, Err("said more than 64 KiB".into()));
    }

    #[tokio::test]
    async fn what_it_leaves_behind_ends_with_it() {
        let left = outcome("sleep 1000 & echo $!").await.unwrap();
        until_gone(left.trim()).await;
    }

    #[tokio::test]
    async fn hung_it_is_killed_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let ids = dir.path().join("ids");
        let script = format!(
            "sleep 1000 & echo $! >{0}; (sleep 1000 & echo $! >>{0}; wait) & echo $! >>{0}; wait",
            ids.display()
        );
        let command = shell(&script);
        // As a check's time-out does it.
        let mut runner = Runner::default();
        let hung = timeout(Duration::from_millis(500), runner.run(&command)).await;
        assert!(hung.is_err(), "{hung:?}");
        let ids = fs::read_to_string(ids).unwrap();
        assert_eq!(ids.lines().count(), 3, "{ids}");
        for id in ids.lines() {
            until_gone(id).await;
        }
        assert_eq!(runner.run(&shell("echo next")).await.unwrap(), b"next\n");
    }

    async fn until_gone(id: &str) {
        timeout(LONG, async {
            while runs(id) {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("the process is gone");
    }
}
