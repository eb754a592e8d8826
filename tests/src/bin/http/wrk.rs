//! wrk, the client of all measurements, and CPU time.

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use balancer_tests::Lab;

/// What wrk tells at its end, in a form that can be read.
const SCRIPT: &str = r#"
done = function(summary, latency, requests)
    local e = summary.errors
    print(string.format("RESULT %d %d %d %d", summary.requests, summary.duration, latency:percentile(99),
        e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

/// What wrk was answered.
pub struct Answers {
    /// How many.
    pub count: f64,
    /// The time that it took.
    pub seconds: f64,
    /// From request to the answer's end, in milliseconds; the time to connect isn't in it.
    pub p99: f64,
    /// Requests that failed.
    pub failed: f64,
}

/// Asks for `url`, over so many connections at a time. They end with the answer unless `keep`.
pub fn ask(lab: &Lab, url: &str, keep: bool, connections: u32, seconds: u32) -> Result<Answers> {
    let script = lab.dir().join("wrk.lua");
    fs::write(&script, SCRIPT).context("a file in the lab's directory")?;
    let mut command = lab.client.command("wrk");
    command
        .args(["--threads", "2", "--timeout", "10s"])
        .args(["--connections", &connections.to_string()])
        .args(["--duration", &format!("{seconds}s")])
        .arg("--script")
        .arg(script);
    if !keep {
        command.args(["--header", "Connection: close"]);
    }
    let output = command
        .arg(url)
        .output()
        .context("wrk didn't start: scripts/setup installs it")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let result = text.lines().find_map(|line| line.strip_prefix("RESULT "));
    let numbers: Vec<f64> = result
        .unwrap_or_default()
        .split(' ')
        .filter_map(|number| number.parse().ok())
        .collect();
    let [count, micros, p99, failed] = numbers[..] else {
        bail!(
            "wrk failed: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    ensure!(count > 0.0, "{url}: no request was answered");
    Ok(Answers {
        count,
        seconds: micros / 1e6,
        p99: p99 / 1e3,
        failed,
    })
}

/// CPU time that a process and its children have used, in seconds (proc(5), `/proc/pid/stat`).
pub fn cpu_time(process: u32) -> Result<f64> {
    const TICKS_A_SECOND: f64 = 100.0;
    let children = format!("/proc/{process}/task/{process}/children");
    let children = fs::read_to_string(&children).with_context(|| children.clone())?;
    let mut ticks = 0.0;
    for process in children
        .split_whitespace()
        .chain([process.to_string().as_str()])
    {
        let stat = format!("/proc/{process}/stat");
        let stat = fs::read_to_string(&stat).with_context(|| stat.clone())?;
        // The name, in parentheses, may have anything in it. User and system time are the 12th and 13th field after it.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let fields = fields.split_whitespace().skip(11).take(2);
        ticks += fields
            .filter_map(|field| field.parse::<f64>().ok())
            .sum::<f64>();
    }
    Ok(ticks / TICKS_A_SECOND)
}
