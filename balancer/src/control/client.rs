//! The commands' side.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::{Answer, Request};

/// A daemon answers at once, but for `detach`, which says goodbye to the peers first.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the daemon behind the socket at `path`. `None`: there is no daemon.
///
/// # Errors
///
/// The socket can't be used, or the daemon refused.
pub fn ask(path: &Path, request: &Request) -> Result<Option<Answer>> {
    let mut stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => bail!(
            "no permission for the daemon's socket {}: try again as root (sudo)",
            path.display()
        ),
        Err(error) => {
            return Err(error)
                .with_context(|| format!("cannot reach the daemon at {}", path.display()));
        }
    };
    let mut exchange = || -> Result<Answer> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&serde_json::to_vec(request)?)?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(serde_json::from_slice(&answer)?)
    };
    match exchange()
        .with_context(|| format!("no proper answer from the daemon at {}", path.display()))?
    {
        Answer::Refused(why) => bail!("{why}"),
        answer => Ok(Some(answer)),
    }
}
