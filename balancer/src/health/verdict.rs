//! Whether a service is healthy, by its last checks.

/// What the checks of one service add up to.
///
/// ```text
///             fall failures in a row
///           ────────────────────────►
/// (start) healthy                   down
///           ◄────────────────────────
///             rise successes in a row
/// ```
///
/// It starts healthy: a daemon that was just started must not send a working service's clients away. An answer that
/// speaks for the present state ends a series against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    healthy: bool,
    /// Answers in a row that speak against the present state.
    against: u32,
    rise: u32,
    fall: u32,
}

impl Verdict {
    pub(super) fn new(rise: u32, fall: u32) -> Self {
        Self {
            healthy: true,
            against: 0,
            rise,
            fall,
        }
    }

    /// Takes one answer in. `Some` is the new state, if it changed.
    pub(super) fn record(&mut self, success: bool) -> Option<bool> {
        let needed = match (self.healthy, success) {
            (true, true) | (false, false) => {
                self.against = 0;
                return None;
            }
            (true, false) => self.fall,
            (false, true) => self.rise,
        };
        self.against += 1;
        if self.against < needed {
            return None;
        }
        self.healthy = success;
        self.against = 0;
        Some(success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers as `+` and `-`; what came of each: `U` became healthy, `D` went down, `.` no change.
    #[test]
    fn series_decide() {
        for (rise, fall, answers, changes) in [
            (2, 3, "+++", "..."),
            (2, 3, "---", "..D"),
            (2, 3, "----", "..D."),
            (2, 3, "--+--+---", "........D"),
            (2, 3, "---++", "..D.U"),
            (2, 3, "---+-++", "..D...U"),
            (2, 3, "---++--+---", "..D.U.....D"),
            (1, 1, "-+-+", "DUDU"),
            (3, 1, "-+++-", "D..UD"),
            (1, 2, "-+--+", "...DU"),
        ] {
            let mut verdict = Verdict::new(rise, fall);
            let seen: String = answers
                .chars()
                .map(|answer| match verdict.record(answer == '+') {
                    Some(true) => 'U',
                    Some(false) => 'D',
                    None => '.',
                })
                .collect();
            assert_eq!(seen, changes, "rise {rise}, fall {fall}: {answers}");
        }
    }
}
