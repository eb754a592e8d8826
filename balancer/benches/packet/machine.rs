//! What the figures were measured on.

use std::fs;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::sys::utsname::uname;
use nix::unistd::Pid;

/// Keeps the benchmark on the CPU that it runs on: its caches are warm, and per-CPU lists of free entries are its own.
pub fn stay_on_this_cpu() -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(sched_getcpu()?)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("cannot keep to one CPU")
}

/// Processor, kernel and how busy it is.
pub fn describe() -> Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let processor = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("an unnamed processor", |(_, name)| name);
    let cpus = cpuinfo
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let kernel = uname()?.release().to_string_lossy().into_owned();
    Ok(format!(
        "{processor}, {cpus} CPUs, Linux {kernel}. {}",
        load()?
    ))
}

/// The load average, which is to be below 1 when the benchmark starts.
pub fn load() -> Result<String> {
    let load = fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
    let mut averages = load.split(' ');
    let (one, five) = (
        averages.next().unwrap_or("?"),
        averages.next().unwrap_or("?"),
    );
    Ok(format!(
        "Load average of the last minute {one}, of five {five}."
    ))
}
