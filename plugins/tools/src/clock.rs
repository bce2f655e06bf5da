//! Tells date and time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use protocol::{Tool, ToolError, ToolSpec};
use serde_json::json;

pub(crate) const NAME: &str = "clock";

const WEEKDAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const DAY_SECONDS: i64 = 86_400;

pub(crate) fn build() -> Box<dyn Tool> {
    Box::new(Clock::new(SystemTime::now))
}

struct Clock {
    spec: ToolSpec,
    now: fn() -> SystemTime,
}

impl Clock {
    fn new(now: fn() -> SystemTime) -> Self {
        let parameters = json!({
            "type": "object",
            "properties": {
                "offset": {
                    "type": "string",
                    "description": "Distance of the local time from UTC, such as +02:00. \
                                    Without it, the answer is in UTC.",
                },
            },
            "required": [],
        });
        let description = "Tells the current date, time and day of the week.".into();
        Self { spec: ToolSpec { name: NAME.into(), description, parameters, strict: false }, now }
    }
}

impl Tool for Clock {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, arguments: &str, _deadline: Instant) -> Result<String, ToolError> {
        let offset = crate::argument(arguments, "offset")?;
        let offset_seconds = match offset.as_deref() {
            None => 0,
            Some(text) => offset_seconds(text).ok_or_else(|| {
                ToolError("offset must be Z or from -14:00 to +14:00, such as +02:00".into())
            })?,
        };
        let elapsed = (self.now)()
            .duration_since(UNIX_EPOCH)
            .map_err(|_| ToolError("the clock of this box is not set".into()))?;
        let seconds = i64::try_from(elapsed.as_secs())
            .map_err(|_| ToolError("the clock of this box is not set".into()))?;
        let local = Moment::at(seconds.saturating_add(offset_seconds));
        let zone = match offset_seconds {
            0 => "Z".to_owned(),
            _ => {
                let minutes = offset_seconds.abs() / 60;
                let sign = if offset_seconds < 0 { '-' } else { '+' };
                format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
            }
        };
        let time = format!("{}{zone}", local.text());
        Ok(json!({ "time": time, "weekday": local.weekday }).to_string())
    }
}

/// `Z`, `+02:00`, `+0200` or `+2`, as seconds.
fn offset_seconds(text: &str) -> Option<i64> {
    const MINUTES_MAX: i64 = 14 * 60;
    let text = text.trim();
    if matches!(text, "Z" | "z" | "UTC") {
        return Some(0);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = match rest.split_once(':') {
        Some(parts) => parts,
        None if rest.len() == 4 => rest.split_at_checked(2)?,
        None => (rest, "0"),
    };
    let number = |digits: &str| {
        let short = (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        short.then(|| digits.parse::<i64>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let total = hours * 60 + minutes;
    (minutes < 60 && total <= MINUTES_MAX).then_some(sign * total * 60)
}

/// A moment in the Gregorian calendar.
struct Moment {
    year: i64,
    month: i64,
    day: i64,
    second_of_day: i64,
    weekday: &'static str,
}

impl Moment {
    /// From seconds since 1970-01-01T00:00:00, leap seconds not counted.
    ///
    /// Years are counted from March, so that the leap day is the last of its year; then months of
    /// 31 and 30 days follow one formula, and 400 years have always the same number of days.
    fn at(seconds: i64) -> Self {
        const ERA_DAYS: i64 = 146_097;
        /// Days from 0000-03-01 to 1970-01-01.
        const EPOCH_DAYS: i64 = 719_468;
        let days = seconds.div_euclid(DAY_SECONDS);
        let from_march = days + EPOCH_DAYS;
        let era = from_march.div_euclid(ERA_DAYS);
        let day_of_era = from_march.rem_euclid(ERA_DAYS);
        let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
        let year_of_era = (day_of_era - leap_days) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        // 1970-01-01 was a Thursday.
        let weekday = WEEKDAYS[usize::try_from((days + 3).rem_euclid(7)).unwrap_or(0)];
        Self { year, month, day, second_of_day: seconds.rem_euclid(DAY_SECONDS), weekday }
    }

    fn text(&self) -> String {
        let Self { year, month, day, second_of_day, .. } = self;
        let (hour, minute) = (second_of_day / 3600, second_of_day / 60 % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}", second_of_day % 60)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn moment(seconds: i64) -> String {
        let moment = Moment::at(seconds);
        format!("{} {}", moment.text(), moment.weekday)
    }

    #[test]
    fn the_calendar_knows_leap_years() {
        let cases = [
            (0, "1970-01-01T00:00:00 Thursday"),
            (951_782_399, "2000-02-28T23:59:59 Monday"),
            (951_782_400, "2000-02-29T00:00:00 Tuesday"),
            (951_868_800, "2000-03-01T00:00:00 Wednesday"),
            (1_709_164_800, "2024-02-29T00:00:00 Thursday"),
            (1_735_689_599, "2024-12-31T23:59:59 Tuesday"),
            (4_107_542_400, "2100-03-01T00:00:00 Monday"),
            (-1, "1969-12-31T23:59:59 Wednesday"),
        ];
        for (seconds, text) in cases {
            assert_eq!(moment(seconds), text);
        }
    }

    #[test]
    fn days_follow_each_other() {
        let mut before = Moment::at(0);
        for day in 1..200_000 {
            let now = Moment::at(day * DAY_SECONDS);
            let next_day = now.day == before.day + 1 && now.month == before.month;
            let next_month = now.day == 1 && now.month == before.month % 12 + 1;
            assert!(next_day || next_month, "{}", now.text());
            assert_eq!(now.year, before.year + i64::from(now.month == 1 && now.day == 1));
            before = now;
        }
    }

    #[test]
    fn the_answer_is_in_the_zone_that_was_asked_for() {
        let clock = Clock::new(|| UNIX_EPOCH + Duration::from_secs(1_735_689_599));
        let call = |arguments: &str| clock.call(arguments, Instant::now()).unwrap();
        let utc = "{\"time\":\"2024-12-31T23:59:59Z\",\"weekday\":\"Tuesday\"}";
        for arguments in ["", "{}", "{\"offset\":null}", "{\"offset\":\"Z\"}"] {
            assert_eq!(call(arguments), utc);
        }
        assert_eq!(
            call("{\"offset\":\"+05:30\"}"),
            "{\"time\":\"2025-01-01T05:29:59+05:30\",\"weekday\":\"Wednesday\"}"
        );
        assert_eq!(
            call("{\"offset\":\"-0800\"}"),
            "{\"time\":\"2024-12-31T15:59:59-08:00\",\"weekday\":\"Tuesday\"}"
        );
    }

    #[test]
    fn offsets_that_no_place_has_are_refused() {
        for text in ["", "+", "2", "+15:00", "+02:60", "+-2", "Berlin", "+2:0:0", "+é", "+ 2"] {
            assert_eq!(offset_seconds(text), None, "{text:?}");
        }
        assert_eq!(offset_seconds("+2"), Some(7200));
        assert_eq!(offset_seconds("-00:30"), Some(-1800));
    }
}
