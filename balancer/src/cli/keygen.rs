//! `balancer keygen`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::config::DEFAULT_KEY;
use crate::exchange::Key;

/// Make a cluster key
///
/// Copy the file to all servers of the cluster, with mode 0600: who has it can speak for a server. A file that is there is
/// never overwritten.
#[derive(Args)]
pub struct Keygen {
    /// The file to make
    #[arg(default_value = DEFAULT_KEY)]
    file: PathBuf,
}

impl Keygen {
    pub fn run(&self) -> Result<()> {
        Key::generate_file(&self.file)?;
        println!(
            "made {}: copy it to the other servers, with mode 0600",
            self.file.display()
        );
        Ok(())
    }
}
