//! The kernel, this process's rights, and what BPF needs of the host.

use std::fs;
use std::path::Path;

use super::Finding;

/// The oldest kernel that will do: `bpf_loop` 5.17, BPF links for XDP 5.9, `SO_NETNS_COOKIE` 5.14, all tested from 6.1 on.
const OLDEST: (u32, u32) = (6, 1);

/// What the maps take, with room for the daemon, in KiB.
const MEMORY_KIB: u64 = 256 * 1024;

/// Open files that the daemon may need: a socket a check and a peer.
const FILES: u64 = 1024;

/// What attaching takes, with the numbers of `include/uapi/linux/capability.h`.
const CAPABILITIES: [(&str, u32); 4] = [
    ("CAP_NET_ADMIN", 12), // XDP, addresses, rules
    ("CAP_NET_RAW", 13),   // ARP probes
    ("CAP_SYS_ADMIN", 21), // mounts of bpffs and cgroup v2, map and program ids
    ("CAP_BPF", 39),
];

/// Examines the host.
pub fn examine() -> Vec<Finding> {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let btf = fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
    let filesystems = text("/proc/filesystems");
    vec![
        release(text("/proc/sys/kernel/osrelease").trim()),
        types(&btf),
        privileges(&text("/proc/self/status")),
        jit(text("/proc/sys/net/core/bpf_jit_enable").trim()),
        filesystem(
            "bpffs",
            "bpf",
            "keeps programs when the daemon ends",
            &filesystems,
        ),
        filesystem("cgroup v2", "cgroup2", "counts connections", &filesystems),
        mounts(),
        memory(&text("/proc/meminfo")),
        files(&text("/proc/self/limits")),
    ]
}

fn release(release: &str) -> Finding {
    let mut numbers = release
        .split(|character: char| !character.is_ascii_digit())
        .map_while(|number| number.parse::<u32>().ok());
    let version = numbers.next().zip(numbers.next());
    if version.is_some_and(|version| version >= OLDEST) {
        return Finding::ok("kernel", release);
    }
    let (major, minor) = OLDEST;
    Finding::bad(
        "kernel",
        format!("{release}: balancer needs Linux {major}.{minor} or later"),
        "apt install linux-image-amd64 # or your distribution's newer kernel",
    )
}

/// BTF, and in it the helper that the walk over peers needs.
fn types(btf: &[u8]) -> Finding {
    let name = b"\0BPF_FUNC_loop\0";
    if btf.is_empty() {
        Finding::bad(
            "BPF types",
            "no /sys/kernel/btf/vmlinux: this kernel was built without CONFIG_DEBUG_INFO_BTF",
            "apt install linux-image-amd64 # or another kernel that has it",
        )
    } else if btf.windows(name.len()).any(|window| window == name) {
        Finding::ok("BPF types", "BTF, with bpf_loop")
    } else {
        Finding::bad(
            "BPF types",
            "BTF without bpf_loop, by which peers are compared",
            "apt install linux-image-amd64 # Linux 5.17 has it",
        )
    }
}

fn privileges(status: &str) -> Finding {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(_, bit)| effective & (1 << bit) == 0)
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        Finding::ok("privileges", "all that attaching takes")
    } else {
        Finding::bad(
            "privileges",
            format!(
                "{} missing: nothing can be attached, and not everything be seen",
                missing.join(", ")
            ),
            "sudo balancer doctor",
        )
    }
}

fn jit(enabled: &str) -> Finding {
    match enabled {
        "0" => Finding::warn(
            "BPF JIT",
            "off: programs are interpreted, many times slower",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        // Only root of the first namespaces may read it.
        _ => Finding::ok("BPF JIT", "on"),
    }
}

fn filesystem(check: &'static str, name: &str, what_for: &str, filesystems: &str) -> Finding {
    if filesystems
        .lines()
        .any(|line| line.split_whitespace().last() == Some(name))
    {
        Finding::ok(check, format!("known to the kernel: {what_for}"))
    } else {
        Finding::bad(
            check,
            format!("not known to the kernel: {what_for}"),
            "apt install linux-image-amd64 # a kernel with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF",
        )
    }
}

/// `ip netns exec` and `unshare` make a mount namespace; what is pinned in one is seen by nobody else, and goes with it.
fn mounts() -> Finding {
    let namespace = |process: &str| fs::read_link(Path::new("/proc").join(process).join("ns/mnt"));
    match (namespace("self"), namespace("1")) {
        (Ok(own), Ok(first)) if own != first => Finding::warn(
            "mounts",
            "this shell has mounts of its own (`ip netns exec`?): pins made here are lost with it",
            "nsenter --net=/run/netns/NAME balancer ...",
        ),
        _ => Finding::ok("mounts", "the host's"),
    }
}

fn memory(meminfo: &str) -> Finding {
    let available = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let Some(available) = available else {
        return Finding::ok("memory", "unknown");
    };
    let found = format!("{} MiB available", available / 1024);
    if available < MEMORY_KIB {
        Finding::warn(
            "memory",
            format!(
                "{found}: the maps take more than half of {} MiB",
                MEMORY_KIB / 1024
            ),
            "free -m",
        )
    } else {
        Finding::ok("memory", found)
    }
}

/// Memory for maps is the cgroup's since Linux 5.11: `RLIMIT_MEMLOCK` has no say in it.
fn files(limits: &str) -> Finding {
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().next());
    let Some(soft) = soft else {
        return Finding::ok("open files", "unknown");
    };
    match soft.parse::<u64>() {
        Ok(limit) if limit < FILES => Finding::warn(
            "open files",
            format!("{limit} at the most: checks of many services need more"),
            format!("ulimit -n {FILES}"),
        ),
        _ => Finding::ok("open files", format!("{soft} at the most")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn kernels_are_told_apart() {
        let state = |text| release(text).state;
        assert_eq!(state("6.1.0-18-amd64"), State::Ok);
        assert_eq!(state("6.18.44-fc-v669"), State::Ok);
        assert_eq!(state("7.0"), State::Ok);
        assert_eq!(state("5.15.0-91-generic"), State::Bad);
        assert_eq!(state("6"), State::Bad);
        assert_eq!(state(""), State::Bad);
    }

    #[test]
    fn the_helper_must_be_in_the_types() {
        assert_eq!(types(b"..\0BPF_FUNC_loop\0..").state, State::Ok);
        assert_eq!(types(b"..\0BPF_FUNC_loop_x\0..").state, State::Bad);
        assert_eq!(types(b"").state, State::Bad);
    }

    #[test]
    fn missing_capabilities_are_named() {
        let root = "Name:\tx\nCapEff:\t000001ffffffffff\n";
        assert_eq!(privileges(root).state, State::Ok);
        let user = privileges("CapEff:\t0000000000003000\n");
        assert_eq!(user.state, State::Bad);
        assert!(
            user.found.starts_with("CAP_SYS_ADMIN, CAP_BPF missing"),
            "{user:?}"
        );
        assert_eq!(privileges("").state, State::Bad);
    }

    #[test]
    fn host_limits() {
        assert_eq!(jit("0").state, State::Warn);
        assert_eq!(jit("1").state, State::Ok);
        assert_eq!(memory("MemAvailable:   1000000 kB\n").state, State::Ok);
        assert_eq!(memory("MemAvailable:   200000 kB\n").state, State::Warn);
        let limits =
            |soft| format!("Max open files            {soft}                 524288    files\n");
        assert_eq!(files(&limits("256")).state, State::Warn);
        assert_eq!(files(&limits("20000")).state, State::Ok);
        assert_eq!(files(&limits("unlimited")).state, State::Ok);
        let known = "nodev\tcgroup2\n\text4\n";
        assert_eq!(filesystem("x", "cgroup2", "", known).state, State::Ok);
        assert_eq!(filesystem("x", "bpf", "", known).state, State::Bad);
    }
}
