use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;
use crate::config::Policy;

const FILE: &str = r#"# Ours.
[levels]
overload = "40%" # low on purpose
#margin = "20%"

# How it is told.
[exchange]
period = "250ms"

[[service]]
name = "www" # the shop
ports = ["80/tcp"]
capacity = 20   # measured in May
check = { tcp = "127.0.0.1:80", every = "2s" }

[[service]]
name = "a.b"
ports = ["22/tcp"]
"#;

fn settings(texts: &[&str]) -> Vec<Setting> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A source of `text`, whose file goes with the directory.
fn source(text: &str, services: &[&str]) -> (tempfile::TempDir, Source, Config) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("balancer.toml");
    fs::write(&path, text).unwrap();
    let flags = CliOverrides {
        services: services.iter().map(|spec| spec.parse().unwrap()).collect(),
        ..CliOverrides::default()
    };
    let (source, config) = Source::open(Some(path), flags).unwrap();
    (dir, source, config)
}

fn text(dir: &tempfile::TempDir) -> String {
    fs::read_to_string(dir.path().join("balancer.toml")).unwrap()
}

#[test]
fn what_is_set_is_in_effect_and_all_else_as_it_was() {
    let (dir, source, before) = source(FILE, &[]);
    let (source, config) = source
        .set(&settings(&[
            "overload=62.5%",
            "margin = 5%",
            "policy=least-load",
            "period=100ms",
            "timeout_periods=5",
            "load.cpu=10%",
            "www.capacity=500",
            "www.check.every=3s",
            "a.b.overload=70%",
        ]))
        .unwrap();
    assert_eq!(config.levels.overload.to_string(), "62.5%");
    assert_eq!(config.levels.margin.to_string(), "5%");
    assert_eq!(config.levels.policy, Policy::LeastLoad);
    assert_eq!(config.exchange.period.as_millis(), 100);
    assert_eq!(config.exchange.timeout().as_millis(), 500);
    assert_eq!(config.load.cpu.to_string(), "10%");
    let [www, ab] = &config.services[..] else {
        panic!("two services")
    };
    assert_eq!(www.capacity.get(), 500);
    assert_eq!(www.check.as_ref().unwrap().every.as_secs(), 3);
    assert_eq!(www.levels, config.levels);
    assert_eq!(ab.levels.overload.to_string(), "70%");
    assert_eq!(text(&dir), FILE, "only in effect, not saved");

    // One after the other.
    let (source, config) = source.set(&settings(&["margin=6%"])).unwrap();
    assert_eq!(config.levels.margin.to_string(), "6%");
    assert_eq!(config.services[0].capacity.get(), 500);
    assert_eq!(source.reopen().unwrap().1, before);
}

#[test]
fn saving_keeps_comments_and_order() {
    let (dir, source, _) = source(FILE, &[]);
    let wanted = settings(&[
        "overload=60%",
        "margin=5%",
        "www.capacity=500",
        "www.check.every=3s",
        "cpu=0%",
    ]);
    source.save(&wanted).unwrap();
    let expected = FILE
        .replace("\"40%\"", "\"60%\"")
        .replace("# low on purpose\n", "# low on purpose\nmargin = \"5%\"\n")
        .replace("capacity = 20 ", "capacity = 500 ")
        .replace("\"2s\"", "\"3s\"")
        + "\n[load]\ncpu = \"0%\"\n";
    assert_eq!(text(&dir), expected);
    let (_, config) = source.reopen().unwrap();
    assert_eq!(config, source.set(&wanted).unwrap().1);
}

#[test]
fn saving_keeps_mode_and_links_and_what_was_edited_since() {
    let (dir, _, _) = source(FILE, &[]);
    let (real, link) = (dir.path().join("balancer.toml"), dir.path().join("link"));
    symlink("balancer.toml", &link).unwrap();
    let mode = |mode| fs::set_permissions(&real, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o640);
    let (source, _) = Source::open(Some(link.clone()), CliOverrides::default()).unwrap();
    fs::write(&real, FILE.replace("Ours", "Mine")).unwrap();
    source.save(&settings(&["margin=5%"])).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&real).unwrap().mode() & 0o7777, 0o640);
    assert!(text(&dir).starts_with("# Mine"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn one_bad_setting_changes_nothing() {
    let (dir, source, _) = source(FILE, &[]);
    let table = [
        (
            "overload=2000%",
            "overload=2000%: \"2000%\" is not an overload level: write 0% to 1000%, with at most two decimals, as in \
             \"50%\" or \"62.5%\"",
        ),
        (
            "margin=101%",
            "margin=101%: \"101%\" is not a margin: write 0% to 100%, with at most two decimals, as in \"20%\" or \
             \"12.5%\"",
        ),
        (
            "www.capacity=0",
            "www.capacity=0: \"0\" is not a capacity: write a whole number from 1 to 100000000, the open connections \
             that mean 100 %",
        ),
        (
            "policy=best",
            "policy=best: \"best\" is not a policy: write least-load, two-choices, below-level or round-robin",
        ),
        (
            "www.colour=red",
            "www.colour=red: unknown key `colour`: here may be",
        ),
        (
            "levels.overlod=1%",
            "levels.overlod=1%: unknown key `overlod`: did you mean `overload`?",
        ),
        (
            "capacity=1",
            "capacity=1: there is no such key: write overload, margin, policy, cpu, period, timeout_periods; SERVICE.KEY, \
             as in www.capacity; or TABLE.KEY as in the file",
        ),
        ("ftp.capacity=1", "ftp.capacity=1: unknown key `ftp`"),
        (
            "server.name=web9",
            "server.name=web9: server.name can't change while balancer runs, since peers know this server by it: restart it for \
             that",
        ),
        (
            "www.ports=[\"81/tcp\"]",
            "www.ports=[\"81/tcp\"]: name, ports or agent of a service can't change while balancer runs, since connections in \
             the kernel go by them: restart it for that",
        ),
        (
            "www.capacity.more=1",
            "www.capacity.more=1: capacity is no table",
        ),
    ];
    for (bad, message) in table {
        let wanted = settings(&["period=1s", bad]);
        let error = source.set(&wanted).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
        assert_eq!(text(&dir), FILE);
    }
    fs::write(dir.path().join("balancer.toml"), "[levels\n").unwrap();
    let error = source.save(&settings(&["margin=5%"])).unwrap_err();
    assert!(error.to_string().contains("balancer.toml:1:8"), "{error}");
    assert_eq!(text(&dir), "[levels\n");
}

#[test]
fn services_of_flags_can_be_set_but_not_saved() {
    let (dir, source, before) = source(
        FILE,
        &["8080/tcp,capacity=20,overload=80%", "22/tcp,name=ssh"],
    );
    let setting = settings(&["8080/tcp.capacity=30"]);
    let (set, config) = source.set(&setting).unwrap();
    assert_eq!(config.services[0].capacity.get(), 30);
    assert_eq!(config.services[0].levels, before.services[0].levels);
    assert_eq!(config.services[1], before.services[1]);
    let (_, config) = set.set(&settings(&["overload=10%"])).unwrap();
    assert_eq!(config.services[0].capacity.get(), 30);
    assert_eq!(config.services[1].levels.overload.to_string(), "10%");
    let error = source.save(&setting).unwrap_err().to_string();
    assert!(
        error.contains("--service, which wins over the file"),
        "{error}"
    );
    source.save(&settings(&["overload=10%"])).unwrap();
    assert!(text(&dir).contains("overload = \"10%\" # low on purpose"));
}

#[test]
fn the_service_that_nobody_configured_can_be_set_and_saved() {
    let (dir, source, before) = source("# nothing\n", &[]);
    let setting = settings(&["www.capacity=30"]);
    let (_, config) = source.set(&setting).unwrap();
    assert_eq!(config.services[0].ports, before.services[0].ports);
    assert_eq!(config.services[0].capacity.get(), 30);
    source.save(&setting).unwrap();
    assert_eq!(
        text(&dir),
        "[[service]]\nname = \"www\"\nports = [\"80/tcp\", \"443/tcp\"]\ncapacity = 30\n# nothing\n"
    );
    assert_eq!(source.reopen().unwrap().1, config);

    let (unsaved, _) = Source::open(None, CliOverrides::default()).unwrap();
    let (_, config) = unsaved.set(&setting).unwrap();
    assert_eq!(config.services[0].capacity.get(), 30);
    let error = unsaved.save(&setting).unwrap_err().to_string();
    assert!(error.contains("--config"), "{error}");
}

#[test]
fn what_a_flag_has_is_not_pretended_to_change() {
    let flags = CliOverrides {
        keys: vec!["/etc/a.key".into()],
        ..CliOverrides::default()
    };
    let (source, _) = Source::open(None, flags).unwrap();
    let wanted = settings(&["exchange.keys=[\"/etc/b.key\"]"]);
    let error = source.set(&wanted).unwrap_err().to_string();
    assert!(
        error.ends_with("a flag of the command line wins over this"),
        "{error}"
    );
}
