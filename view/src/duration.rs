//! Times as Cisco prints them: at most eight columns, the two largest units.

use std::fmt;

/// Seconds since something happened, printed as `00:07:52`, `1d05h`, `3w5d`, `2y11w`, or `never` for `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since(pub Option<u64>);

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.pad("never"),
            Some(seconds) => f.pad(&two_units(seconds)),
        }
    }
}

/// Hours, minutes and seconds however long the time is: `00:09:27`, `720:00:00`. NHRP's `created` and `expire` use
/// it below one day only; beyond, they too print the two largest units ([`Since`]).
pub fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / HOUR, seconds / MINUTE % 60, seconds % MINUTE)
}

fn two_units(seconds: u64) -> String {
    match seconds {
        s if s < DAY => clock(s),
        s if s < WEEK => format!("{}d{:02}h", s / DAY, s % DAY / HOUR),
        s if s < YEAR => format!("{}w{}d", s / WEEK, s % WEEK / DAY),
        s => format!("{}y{}w", s / YEAR, s % YEAR / WEEK),
    }
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;
const YEAR: u64 = 365 * DAY;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_begins_where_the_one_below_ends() {
        for (seconds, text) in [
            (0, "00:00:00"),
            (59, "00:00:59"),
            (60, "00:01:00"),
            (472, "00:07:52"),
            (DAY - 1, "23:59:59"),
            (DAY, "1d00h"),
            (DAY + 5 * HOUR + 59 * MINUTE, "1d05h"),
            (WEEK - 1, "6d23h"),
            (WEEK, "1w0d"),
            (3 * WEEK + 5 * DAY, "3w5d"),
            (YEAR - 1, "52w0d"),
            (YEAR, "1y0w"),
            (2 * YEAR + 11 * WEEK, "2y11w"),
        ] {
            assert_eq!(Since(Some(seconds)).to_string(), text, "{seconds} s");
        }
        assert_eq!(Since(None).to_string(), "never");
    }

    #[test]
    fn a_century_still_fits_the_column_and_nothing_overflows() {
        assert!(Since(Some(99 * YEAR + 51 * WEEK)).to_string().len() <= 8);
        assert!(Since(Some(u64::MAX)).to_string().ends_with('w'));
    }

    #[test]
    fn width_is_obeyed() {
        assert_eq!(format!("{:>8}|", Since(None)), "   never|");
        assert_eq!(format!("{:>8}|", Since(Some(DAY))), "   1d00h|");
    }

    #[test]
    fn the_clock_counts_hours_beyond_a_day() {
        assert_eq!(clock(567), "00:09:27");
        assert_eq!(clock(30 * DAY), "720:00:00");
    }
}
