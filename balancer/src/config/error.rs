//! What is wrong with a configuration, where, and what to write instead.

use std::{fmt::Display, io, ops::Range, path::PathBuf};

/// Why there is no configuration. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{}: cannot read the configuration: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file says something that can't be.
    #[error("{origin}:{line}:{column}: {message}")]
    Text {
        /// Where the text came from.
        origin: String,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong, and what to write instead.
        message: String,
    },
    /// A running daemon can't change this.
    #[error("{key} can't change while balancer runs, since {reason}: restart it for that")]
    Fixed {
        /// The key.
        key: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// Something that was to be set can't be.
    #[error("{setting}: {message}")]
    Setting {
        /// As it was given.
        setting: String,
        /// What is wrong, and what to write instead.
        message: String,
    },
    /// A text can't be edited.
    #[error("cannot edit the configuration: {message}")]
    Edit {
        /// Why.
        message: String,
    },
    /// There is nothing to save to.
    #[error(
        "cannot save: this balancer was started without a file (`balancer attach --config FILE`)"
    )]
    NoFile,
    /// The file can't be written.
    #[error("{}: cannot save the configuration: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A flag of the command line says something that can't be.
    #[error("{flag}: {message}")]
    Flag {
        /// The flag, as in `--service`.
        flag: &'static str,
        /// What is wrong, and what to write instead.
        message: String,
    },
}

impl ConfigError {
    /// Without the place, where that is no place of a file that anybody has.
    pub(super) fn bare(self) -> String {
        match self {
            Self::Text { message, .. } => message,
            other => other.to_string(),
        }
    }
}

/// What is wrong at one place of a text.
#[derive(Debug)]
pub(super) struct Problem {
    span: Range<usize>,
    message: String,
}

impl Problem {
    pub(super) fn new(span: Range<usize>, message: impl Display) -> Self {
        Self {
            span,
            message: message.to_string(),
        }
    }

    /// What the TOML reader found in `text`, in words that help.
    pub(super) fn from_toml(error: &toml::de::Error, text: &str) -> Self {
        let span = error.span().unwrap_or(0..0);
        let message = error.message();
        if let Some(message) = unknown_key(message) {
            return Self { span, message };
        }
        let there = text.get(span.clone()).unwrap_or_default();
        for (table, what) in [
            ("service", "services"),
            ("http", "of these"),
            ("http.rule", "rules"),
        ] {
            if there.starts_with(&format!("[{table}]")) {
                let message =
                    format!("there may be several {what}: write [[{table}]], with two brackets");
                return Self::new(span, message);
            }
        }
        Self::new(
            span,
            message.replace(
                "expected a sequence",
                "expected a list: write it in brackets",
            ),
        )
    }

    /// With the place in lines and columns.
    pub(super) fn locate(self, text: &str, origin: &str) -> ConfigError {
        let before = text.get(..self.span.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        ConfigError::Text {
            origin: origin.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: self.message,
        }
    }
}

/// serde's 'unknown field `a`, expected one of `b`, `c`' with the nearest of the known ones, if one is near.
fn unknown_key(message: &str) -> Option<String> {
    let mut quoted = message
        .strip_prefix("unknown field ")?
        .split('`')
        .skip(1)
        .step_by(2);
    let unknown = quoted.next()?;
    let known: Vec<_> = quoted.collect();
    let nearest = known
        .iter()
        .map(|key| (strsim::damerau_levenshtein(unknown, key), key))
        .min()
        .filter(|(distance, key)| *distance <= 1 + key.len() / 4);
    Some(match nearest {
        Some((_, key)) => format!("unknown key `{unknown}`: did you mean `{key}`?"),
        None => format!("unknown key `{unknown}`: here may be {}", known.join(", ")),
    })
}
