//! Tables and numbers for people.

use std::collections::BTreeMap;
use std::time::Duration;

pub use crate::datapath::explain::percent;

/// Lines of columns that line up. `right` names the columns that hold numbers.
pub fn table(head: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let mut line = String::new();
        for (column, cell) in cells.into_iter().enumerate() {
            let width = widths[column];
            if right.contains(&column) {
                line += &format!("{cell:>width$}  ");
            } else {
                line += &format!("{cell:<width$}  ");
            }
        }
        format!("  {}\n", line.trim_end())
    };
    let mut text = line(head.to_vec());
    for row in rows {
        text += &line(row.iter().map(String::as_str).collect());
    }
    text
}

/// A duration, as in `350 ms`, `12.3 s`, `5 min`, `3.2 h`.
pub fn duration(milliseconds: u64) -> String {
    let seconds = Duration::from_millis(milliseconds).as_secs_f64();
    match milliseconds {
        0..1_000 => format!("{milliseconds} ms"),
        1_000..60_000 => format!("{seconds:.1} s"),
        60_000..3_600_000 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3_600.0),
    }
}

/// How many of something, as in `1 connection`, `2 connections`.
pub fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The counters that aren't 0, as in `steered 12, local 3`.
pub fn counters(all: &BTreeMap<String, u64>) -> String {
    let counted: Vec<_> = all
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{} {count}", name.replace('_', " ")))
        .collect();
    if counted.is_empty() {
        "none".into()
    } else {
        counted.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["web1".into(), "5.0 %".into()],
            vec!["a".into(), "100.0 %".into()],
        ];
        assert_eq!(
            table(&["name", "load"], &rows, &[1]),
            "  name     load\n  web1    5.0 %\n  a     100.0 %\n"
        );
    }

    #[test]
    fn durations_have_units() {
        let texts = [999, 1_000, 59_900, 60_000, 3_600_000].map(duration);
        assert_eq!(texts, ["999 ms", "1.0 s", "59.9 s", "1 min", "1.0 h"]);
    }

    #[test]
    fn counters_leave_zeros_out() {
        let all = BTreeMap::from([("bad_seal".into(), 2), ("own".into(), 0)]);
        assert_eq!(counters(&all), "bad seal 2");
        assert_eq!(counters(&BTreeMap::new()), "none");
    }
}
