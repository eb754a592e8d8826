//! The user's own measure of load: a command or a URL that says a number.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::ask::{self, Failure, Runner, Trust};
use crate::config::{LoadProbe, LoadSource};

/// What a probe says is less than this: far beyond the levels that can be set.
const MAX_PERCENT: u32 = 100_000;

/// Measures again and again, in a task of its own. Dropping it ends that.
pub struct Probe {
    results: mpsc::UnboundedReceiver<Result<u32, String>>,
    task: Option<JoinHandle<()>>,
}

impl Probe {
    /// Starts `probe`, if there is one, on the current tokio runtime.
    pub fn start(probe: Option<&LoadProbe>) -> Self {
        // One that isn't read can't be followed by many: measuring takes longer than reading.
        let (sender, results) = mpsc::unbounded_channel();
        let task = probe.map(|probe| tokio::spawn(watch(probe.clone(), sender)));
        Self { results, task }
    }

    /// The next result: a load in basis points, or what is wrong. Waits for as long as there is none. Cancelling it loses
    /// nothing.
    pub async fn measured(&mut self) -> Result<u32, String> {
        match self.results.recv().await {
            Some(result) => result,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Measures for ever, never twice at a time.
async fn watch(probe: LoadProbe, results: mpsc::UnboundedSender<Result<u32, String>>) {
    let checked = matches!(&probe.source, LoadSource::Http { host: Some(_), .. });
    let (mut trust, mut runner) = (Trust::new(checked), Runner::default());
    let mut ticks = interval(probe.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let result = measure(&probe.source, &mut trust, &mut runner, probe.timeout).await;
        if results.send(result).is_err() {
            return;
        }
    }
}

async fn measure(
    source: &LoadSource,
    trust: &mut Trust,
    runner: &mut Runner,
    limit: Duration,
) -> Result<u32, String> {
    let said = timeout(limit, async {
        match source {
            LoadSource::Command(command) => runner.run(command).await,
            LoadSource::Http { url, host } => {
                let answer = ask::get(url, host.as_ref(), trust).await?;
                Ok(answer.body)
            }
        }
    });
    let said = said
        .await
        .unwrap_or_else(|_| Err(Failure::Timeout(limit, String::new())))
        .map_err(|failure| failure.to_string())?;
    number(&said).ok_or_else(|| {
        format!(
            "said {:?}: wanted is a number below {MAX_PERCENT}, in percent, as in 73 or 73.5",
            ask::excerpt(&said)
        )
    })
}

/// Percent, perhaps with the sign and with decimals, in basis points. Further decimals are dropped.
fn number(said: &[u8]) -> Option<u32> {
    let text = str::from_utf8(said).ok()?.trim();
    let text = text.strip_suffix('%').unwrap_or(text).trim_end();
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) {
        return None;
    }
    let whole: u32 = whole.parse().ok().filter(|whole| *whole < MAX_PERCENT)?;
    let hundredths: u32 = format!("{decimals:0<2}")[..2].parse().ok()?;
    Some(whole * 100 + hundredths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_what_is_none() {
        for (said, points) in [
            ("73", 7_300),
            ("73.5\n", 7_350),
            (" 0 %\n", 0),
            ("250%", 25_000),
            ("0.019", 1),
            ("99999", 9_999_900),
        ] {
            assert_eq!(number(said.as_bytes()), Some(points), "{said}");
        }
        for said in [
            "",
            "%",
            "-1",
            "+1",
            "1e3",
            "inf",
            "NaN",
            "100000",
            "99999999999",
            "1 2",
            "73\n74",
            "1,5",
            ".",
            "load 3",
        ] {
            assert_eq!(number(said.as_bytes()), None, "{said}");
        }
        assert_eq!(number(b"\xff"), None);
    }

    #[tokio::test]
    async fn tells_of_numbers_and_of_failures() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("load");
        std::fs::write(&file, "12.5").unwrap();
        let probe = |program: &str, arguments: &[&str]| LoadProbe {
            source: LoadSource::Command(crate::config::CommandLine {
                program: program.to_owned(),
                arguments: arguments.iter().map(ToString::to_string).collect(),
            }),
            every: Duration::from_millis(20),
            timeout: Duration::from_millis(500),
            weight: crate::config::Level::FULL,
        };
        let mut measured = Probe::start(Some(&probe("/bin/cat", &[file.to_str().unwrap()])));
        assert_eq!(measured.measured().await, Ok(1_250));
        std::fs::write(&file, "garbage\x07").unwrap();
        let error = loop {
            if let Err(error) = measured.measured().await {
                break error;
            }
        };
        assert_eq!(
            error,
            "said \"garbage?\": wanted is a number below 100000, in percent, as in 73 or 73.5"
        );
        measured = Probe::start(Some(&probe("/bin/sleep", &["1000"])));
        let error = measured.measured().await;
        assert_eq!(error, Err("took longer than 500 ms".into()));
    }
}
