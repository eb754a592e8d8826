//! Where a server's configuration comes from: a file, flags that win over it, and what was set since it was read.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::setting::with_services;
use super::{CliOverrides, Config, ConfigError, Setting, file};

/// A file and flags, and the text that is in effect.
#[derive(Clone, Debug)]
pub struct Source {
    file: Option<PathBuf>,
    flags: CliOverrides,
    /// The file's when it was read, with the flags' services in place of its own, and with what was set since.
    text: String,
}

impl Source {
    /// Reads the file, if there is to be one.
    pub fn open(file: Option<PathBuf>, flags: CliOverrides) -> Result<(Self, Config), ConfigError> {
        let (text, config) = match &file {
            Some(path) => {
                let text = Config::read(path)?;
                let config = Config::parse(&text, &path.display().to_string())?;
                (text, config)
            }
            None => (String::new(), Config::default()),
        };
        let config = config.override_with(flags.clone())?;
        let text = if flags.services.is_empty() {
            text
        } else {
            with_services(&text, &flags.services)?
        };
        Ok((Self { file, flags, text }, config))
    }

    /// Reads the file again, and forgets what was set.
    pub fn reopen(&self) -> Result<(Self, Config), ConfigError> {
        Self::open(self.file.clone(), self.flags.clone())
    }

    /// With `settings`: all of them, or an error that names the one that can't be.
    pub fn set(&self, settings: &[Setting]) -> Result<(Self, Config), ConfigError> {
        let mut source = self.clone();
        let mut before = source.configs()?;
        for setting in settings {
            source.text = setting.apply(&source.text)?;
            let after = source
                .configs()
                .map_err(|error| setting.refused(error.bare()))?;
            before
                .written
                .may_become(&after.written)
                .map_err(|error| setting.refused(error))?;
            if before.written != after.written && before.in_effect == after.in_effect {
                return Err(setting.refused("a flag of the command line wins over this"));
            }
            before = after;
        }
        Ok((source, before.in_effect))
    }

    /// Writes `settings` to the file, as it is now: it may have been edited since it was read. Returns its path.
    ///
    /// # Errors
    ///
    /// The file is as it was.
    pub fn save(&self, settings: &[Setting]) -> Result<&Path, ConfigError> {
        let path = self.file.as_deref().ok_or(ConfigError::NoFile)?;
        let mut text = Config::read(path)?;
        let origin = path.display().to_string();
        Config::parse(&text, &origin)?;
        for setting in settings {
            if !self.flags.services.is_empty() && setting.is_of_service(&self.text) {
                return Err(setting.refused(
                    "cannot be saved: the services are those of --service, which wins over the file",
                ));
            }
            text = setting.apply(&text)?;
        }
        Config::parse(&text, &origin)?.override_with(self.flags.clone())?;
        replace(path, &text).map_err(|error| ConfigError::Write {
            path: path.to_owned(),
            error,
        })?;
        Ok(path)
    }

    fn configs(&self) -> Result<Configs, ConfigError> {
        let written = file::parse(&self.text)
            .map_err(|problem| problem.locate(&self.text, "the configuration"))?;
        // The flags' services are in the text.
        let flags = CliOverrides {
            services: Vec::new(),
            ..self.flags.clone()
        };
        Ok(Configs {
            in_effect: written.clone().override_with(flags)?,
            written,
        })
    }
}

struct Configs {
    /// What the text says.
    written: Config,
    /// What the flags make of it.
    in_effect: Config,
}

/// Puts `text` in the place of a file's, in one step: a crash leaves the one or the other. Links to it stay links, mode and
/// owner stay.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    let before = fs::metadata(&path)?;
    let mut new = NamedTempFile::new_in(dir)?;
    new.write_all(text.as_bytes())?;
    fchown(new.as_file(), Some(before.uid()), Some(before.gid()))?;
    new.as_file().set_permissions(before.permissions())?;
    new.as_file().sync_all()?;
    new.persist(&path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests;
