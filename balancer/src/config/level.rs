//! The levels of the decision (S203, S206) and the policy (S208).

use std::fmt;

pub use balancer_common::decide::Policy;

use super::value::{Value, value};

value!(Level, Margin, PolicyName, Weight);

/// A share of a server's capacity, from 0 % to 1,000 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(u32);

impl Level {
    const MAX: u32 = 100_000;

    /// 100 %.
    pub const FULL: Self = Self(10_000);

    /// 0 %.
    pub const NONE: Self = Self(0);

    /// In basis points: 10,000 is 100 %.
    pub const fn basis_points(self) -> u32 {
        self.0
    }
}

impl Value for Level {
    const WANTED: &'static str = "an overload level: write 0% to 1000%, with at most two decimals, as in \"50%\" or \"62.5%\"";

    fn read(text: &str) -> Option<Self> {
        percentage(text)
            .filter(|points| *points <= Self::MAX)
            .map(Self)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, hundredths) = (self.0 / 100, self.0 % 100);
        match hundredths {
            0 => write!(f, "{whole}%"),
            tenths if tenths % 10 == 0 => write!(f, "{whole}.{}%", tenths / 10),
            _ => write!(f, "{whole}.{hundredths:02}%"),
        }
    }
}

/// A difference between two loads, from 0 % to 100 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Margin(Level);

impl Margin {
    const MAX: u32 = 10_000;

    /// The difference.
    pub const fn level(self) -> Level {
        self.0
    }
}

impl Value for Margin {
    const WANTED: &'static str =
        "a margin: write 0% to 100%, with at most two decimals, as in \"20%\" or \"12.5%\"";

    fn read(text: &str) -> Option<Self> {
        percentage(text)
            .filter(|points| *points <= Self::MAX)
            .map(|points| Self(Level(points)))
    }
}

/// What a part of the load counts, from 0 % (nothing) to 100 % (as it is measured).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weight(Level);

impl Weight {
    /// The share that it counts.
    pub(super) const fn level(self) -> Level {
        self.0
    }
}

impl Value for Weight {
    const WANTED: &'static str =
        "what this part of the load counts: write 0% to 100%, as in \"100%\"";

    fn read(text: &str) -> Option<Self> {
        percentage(text)
            .filter(|points| *points <= Margin::MAX)
            .map(|points| Self(Level(points)))
    }
}

/// A policy by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyName(Policy);

impl PolicyName {
    /// The policy.
    pub const fn policy(self) -> Policy {
        self.0
    }
}

impl Value for PolicyName {
    const WANTED: &'static str =
        "a policy: write least-load, two-choices, below-level or round-robin";

    fn read(text: &str) -> Option<Self> {
        Policy::from_name(text).map(Self)
    }
}

/// What decides whether a server keeps a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// Overload level (S203): up to this load a server keeps every flow.
    pub overload: Level,
    /// Margin (S206): a peer must be lower by more than this to get a flow.
    pub margin: Level,
    /// How one of the candidates is chosen (S208).
    pub policy: Policy,
}

impl Levels {
    /// These levels, with what is given in place of what was.
    pub(super) fn or(
        self,
        overload: Option<Level>,
        margin: Option<Margin>,
        policy: Option<PolicyName>,
    ) -> Self {
        Self {
            overload: overload.unwrap_or(self.overload),
            margin: margin.map_or(self.margin, Margin::level),
            policy: policy.map_or(self.policy, PolicyName::policy),
        }
    }
}

impl Default for Levels {
    /// The patent's: 50 % and 20 points.
    fn default() -> Self {
        Self {
            overload: Level(5_000),
            margin: Level(2_000),
            policy: Policy::default(),
        }
    }
}

/// `"62.5%"` in basis points.
fn percentage(text: &str) -> Option<u32> {
    let number = text.strip_suffix('%')?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || decimals.len() > 2 {
        return None;
    }
    let hundredths: u32 = format!("{decimals:0<2}").parse().ok()?;
    whole
        .parse::<u32>()
        .ok()?
        .checked_mul(100)?
        .checked_add(hundredths)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn printed_level_reads_back(points in 0..=Level::MAX) {
            prop_assert_eq!(Level(points).to_string().parse(), Ok(Level(points)));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9.%+-]{0,8}") {
            if let Ok(level) = text.parse::<Level>() {
                let value: f64 = text.trim_end_matches('%').parse().unwrap();
                prop_assert!((value * 100.0 - f64::from(level.basis_points())).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn what_is_a_level_and_what_is_not() {
        let points = |text: &str| text.parse().ok().map(Level::basis_points);
        assert_eq!(points("50%"), Some(5_000));
        assert_eq!(points("62.5%"), Some(6_250));
        assert_eq!(points("0.05%"), Some(5));
        assert_eq!(points("1000%"), Some(100_000));
        for text in [
            "",
            "%",
            "50",
            "-1%",
            "+1%",
            ".5%",
            "5.%",
            "1.234%",
            "1000.01%",
            "99999999999%",
            "50 %",
            "٥%",
        ] {
            assert_eq!(points(text), None, "{text}");
        }
        assert!("100%".parse::<Margin>().is_ok());
        assert!("100.01%".parse::<Margin>().is_err());
    }

    #[test]
    fn message_lists_every_policy() {
        for policy in Policy::ALL {
            assert!(PolicyName::WANTED.contains(policy.name()), "{policy:?}");
            assert_eq!(policy.name().parse(), Ok(PolicyName(policy)));
        }
    }
}
