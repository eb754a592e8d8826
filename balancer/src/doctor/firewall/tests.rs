//! Rules as `nft --json list ruleset` prints them (version 1.0.6).

use serde_json::{Value, json};

use super::*;

const REPORT: Report = Report {
    interface: "eth0",
    to: IpAddr::V4(std::net::Ipv4Addr::new(239, 255, 99, 18)),
    port: 9918,
    from: Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7))),
};

/// A table with one base chain for what comes in, of these rules, and the chain `other`.
fn table(policy: &str, rules: &[Value], other: &[Value]) -> Vec<Value> {
    let rule = |chain: &str, expr: &Value| json!({"rule": {"family": "inet", "table": "f", "chain": chain, "handle": 6, "expr": expr}});
    let mut objects = vec![
        json!({"metainfo": {"version": "1.0.6", "json_schema_version": 1}}),
        json!({"table": {"family": "inet", "name": "f", "handle": 1}}),
        json!({"chain": {"family": "inet", "table": "f", "name": "other", "handle": 1}}),
        json!({"chain": {"family": "inet", "table": "f", "name": "input", "handle": 2, "type": "filter", "hook": "input",
            "prio": 0, "policy": policy}}),
    ];
    objects.extend(rules.iter().map(|expr| rule("input", expr)));
    objects.extend(other.iter().map(|expr| rule("other", expr)));
    objects
}

fn fate_of(policy: &str, rules: &[Value]) -> Fate {
    fate(&REPORT, Way::In, &table(policy, rules, &[]))
}

fn dropped() -> Fate {
    Fate::Dropped("inet f input".into())
}

fn perhaps() -> Fate {
    Fate::Perhaps("inet f input".into())
}

fn matching(left: &Value, right: &Value) -> Value {
    json!({"match": {"op": "==", "left": left, "right": right}})
}

fn dport(right: &Value) -> Value {
    matching(
        &json!({"payload": {"protocol": "udp", "field": "dport"}}),
        right,
    )
}

fn meta(key: &str, right: &Value) -> Value {
    matching(&json!({"meta": {"key": key}}), right)
}

fn accept() -> Value {
    json!({"accept": null})
}

fn drop() -> Value {
    json!({"drop": null})
}

#[test]
fn policies_and_plain_rules() {
    assert_eq!(fate(&REPORT, Way::In, &[]), Fate::Passes);
    assert_eq!(fate_of("accept", &[]), Fate::Passes);
    assert_eq!(fate_of("drop", &[]), dropped());
    let other_port = json!([dport(&json!(53)), accept()]);
    assert_eq!(
        fate_of("drop", std::slice::from_ref(&other_port)),
        dropped()
    );
    let rejects = json!([{"counter": {"packets": 0, "bytes": 0}}, {"reject": {"type": "icmpx", "expr": "port-unreachable"}}]);
    assert_eq!(fate_of("accept", &[other_port, rejects]), dropped());
}

#[test]
fn whatever_names_the_report_lets_it_pass() {
    let address = |field: &str, right: &Value| {
        matching(
            &json!({"payload": {"protocol": "ip", "field": field}}),
            right,
        )
    };
    let passing = [
        json!([dport(&json!(9918)), accept()]),
        json!([
            dport(&json!({"set": [53, {"range": [9000, 10000]}]})),
            accept()
        ]),
        json!([meta("l4proto", &json!({"set": ["tcp", "udp"]})), accept()]),
        json!([address("protocol", &json!("udp")), accept()]),
        json!([meta("iifname", &json!("eth*")), accept()]),
        json!([meta("iifname", &json!({"set": ["eth1", "eth0"]})), accept()]),
        json!([meta("pkttype", &json!("multicast")), accept()]),
        json!([
            address(
                "daddr",
                &json!({"prefix": {"addr": "239.255.0.0", "len": 16}})
            ),
            accept()
        ]),
        json!([
            address("saddr", &json!({"prefix": {"addr": "10.0.0.0", "len": 8}})),
            accept()
        ]),
        json!([{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "new"]}}, accept()]),
        json!([{"match": {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": "eth1"}}, accept()]),
        json!([{"vmap": {"key": {"payload": {"protocol": "udp", "field": "dport"}},
            "data": {"set": [[{"range": [1, 5]}, drop()], [9918, accept()]]}}}]),
    ];
    for rule in passing {
        assert_eq!(
            fate_of("drop", std::slice::from_ref(&rule)),
            Fate::Passes,
            "{rule}"
        );
    }
}

#[test]
fn whatever_names_others_does_not() {
    let others = [
        json!([meta("iifname", &json!("lo")), accept()]),
        json!([meta("iif", &json!("lo")), accept()]),
        json!([{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}, accept()]),
        json!([{"vmap": {"key": {"ct": {"key": "state"}},
            "data": {"set": [["invalid", drop()], ["established", accept()]]}}}]),
        json!([
            matching(
                &json!({"payload": {"protocol": "tcp", "field": "dport"}}),
                &json!(9918)
            ),
            accept()
        ]),
        json!([
            matching(
                &json!({"payload": {"protocol": "icmp", "field": "type"}}),
                &json!("echo-request")
            ),
            accept()
        ]),
        json!([
            matching(
                &json!({"payload": {"protocol": "ip6", "field": "nexthdr"}}),
                &json!("udp")
            ),
            accept()
        ]),
    ];
    assert_eq!(fate_of("drop", &others), dropped());
}

#[test]
fn unknown_conditions_make_it_uncertain() {
    let uncertain = [
        json!([dport(&json!("@ports")), accept()]),
        json!([
            matching(
                &json!({"payload": {"protocol": "ip", "field": "saddr"}}),
                &json!("10.0.0.9")
            ),
            accept()
        ]),
        json!([dport(&json!(9918)), {"limit": {"rate": 5, "burst": 5, "per": "second"}}, accept()]),
        json!([{"xt": {"type": "match", "name": "comment"}}, accept()]),
    ];
    for rule in uncertain {
        assert_eq!(
            fate_of("drop", std::slice::from_ref(&rule)),
            perhaps(),
            "{rule}"
        );
        assert_eq!(fate_of("accept", &[rule]), Fate::Passes);
    }
    let blocked = json!([
        matching(
            &json!({"payload": {"protocol": "ip", "field": "saddr"}}),
            &json!("@blocked")
        ),
        drop()
    ]);
    assert_eq!(fate_of("accept", &[blocked]), Fate::Passes);
}

#[test]
fn chains_call_each_other() {
    let jump = json!([{"jump": {"target": "other"}}]);
    let goto = json!([{"goto": {"target": "other"}}]);
    let accepts = json!([dport(&json!(9918)), accept()]);
    let returns = json!([{"return": null}]);
    let fate_of =
        |rules: &[Value], other: &[Value]| fate(&REPORT, Way::In, &table("drop", rules, other));
    let one = std::slice::from_ref;
    assert_eq!(fate_of(one(&jump), one(&accepts)), Fate::Passes);
    assert_eq!(
        fate_of(&[jump.clone(), accepts.clone()], one(&returns)),
        Fate::Passes
    );
    assert_eq!(fate_of(&[goto, accepts.clone()], one(&returns)), dropped());
    // Two that call each other, which the kernel would refuse, end as well.
    assert_eq!(fate_of(one(&jump), one(&jump)), dropped());
    let limited = json!([{"limit": {"rate": 5, "per": "second"}}, {"jump": {"target": "other"}}]);
    assert_eq!(fate_of(&[limited], &[accepts]), perhaps());
}

#[test]
fn every_hook_and_no_other_family_counts() {
    let base = |family: &str, hook: &str| {
        json!({"chain": {"family": family, "table": "f", "name": "c", "handle": 2, "type": "filter", "hook": hook,
            "prio": 0, "policy": "drop"}})
    };
    let on = |device: Value| {
        let mut chain = base("netdev", "ingress");
        chain["chain"]["dev"] = device;
        fate(&REPORT, Way::In, &[chain])
    };
    let fate_of = |way, family, hook| fate(&REPORT, way, &[base(family, hook)]);
    assert_eq!(
        fate_of(Way::In, "ip", "prerouting"),
        Fate::Dropped("ip f c".into())
    );
    assert_eq!(
        fate_of(Way::Out, "inet", "output"),
        Fate::Dropped("inet f c".into())
    );
    for (way, family, hook) in [
        (Way::In, "ip6", "input"),
        (Way::In, "ip", "forward"),
        (Way::Out, "ip", "input"),
    ] {
        assert_eq!(fate_of(way, family, hook), Fate::Passes);
    }
    assert_eq!(on(json!("eth1")), Fate::Passes);
    assert_eq!(on(json!("eth0")), Fate::Dropped("netdev f c".into()));
    assert_eq!(
        on(json!(["eth1", "eth0"])),
        Fate::Dropped("netdev f c".into())
    );
}

#[test]
fn the_cure_names_the_chain() {
    let finding = judge(&REPORT, Way::In, &table("drop", &[], &[]));
    assert_eq!(
        finding.cure.as_deref(),
        Some("nft insert rule inet f input udp dport 9918 accept")
    );
}
