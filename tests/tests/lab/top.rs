//! The live view, on a terminal of its own.

use std::process::Command;

use balancer_tests::{Lab, Server, WITHOUT_CPU};

/// What leaves a terminal as it was: off the alternate screen, with a cursor.
const RESTORED: [&str; 2] = ["\x1b[?1049l", "\x1b[?25h"];

#[test]
fn top_leaves_the_terminal_as_it_was() {
    let Some(mut lab) = Lab::new(1) else { return };
    lab.start(WITHOUT_CPU, "native");
    let server = lab.server(1);
    let ends = [
        // A key, a signal.
        ("(sleep 2; printf q) |", "{} top"),
        ("", "timeout --foreground -s TERM 2 {} top"),
        ("", "timeout --foreground -s HUP 2 {} top"),
    ];
    for (input, command) in ends {
        let shown = on_terminal(server, input, command);
        assert!(shown.contains("kept/s"), "{command}: {shown:?}");
        assert!(shown.contains("www"), "{command}: {shown:?}");
        for sequence in RESTORED {
            assert!(shown.contains(sequence), "{command}: {shown:?}");
        }
        let (_, settings) = shown.rsplit_once("AFTERWARDS").unwrap();
        for raw in ["-icanon", "-echo ", "-isig"] {
            assert!(!settings.contains(raw), "{command}: {settings}");
        }
    }
}

#[test]
fn top_needs_a_terminal_and_a_daemon() {
    let Some(mut lab) = Lab::new(1) else { return };
    let shown = on_terminal(lab.server(1), "", "{} top");
    assert!(shown.contains("no balancer is running"), "{shown:?}");
    assert!(!shown.contains("\x1b[?1049h"), "{shown:?}");
    lab.start(WITHOUT_CPU, "native");
    let ended = lab.server(1).ask(&["top"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.error.contains("needs a terminal"), "{}", ended.error);
}

/// Runs `command`, in which {} is balancer, on a terminal that gets what `input` prints. Returns what is shown, and the
/// terminal's settings afterwards.
fn on_terminal(server: &Server, input: &str, command: &str) -> String {
    let program = server.balancer(&[]);
    let program = program.get_args().last().unwrap().to_str().unwrap();
    let command = command.replace("{}", program);
    let script = format!(
        "{input} timeout -s KILL 20 script -qec 'stty rows 30 cols 100; {command}; echo AFTERWARDS; stty -a' /dev/null"
    );
    let mut shell: Command = server.host.command("sh");
    let output = server
        .point(shell.args(["-c", &script]).env("TERM", "xterm"))
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
