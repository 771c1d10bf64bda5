//! Dates of listings.

/// Seconds since 1970 (negative: before) as a date and time in UTC, such as `2026-11-21 09:03:54`.
pub fn format_utc(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    // Days to a civil date, in eras of 400 years from March 1 of the year 0
    // (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    let shifted = days.saturating_add(719_468);
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era.saturating_mul(400) + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
            (-315_619_200, "1960-01-01 00:00:00"),
            (-62_167_219_201, "-001-12-31 23:59:59"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_795_251_834, "2026-11-21 09:03:54"),
            (4_294_967_295, "2106-02-07 06:28:15"),
        ] {
            assert_eq!(format_utc(seconds), expected);
        }
        assert!(!format_utc(i64::MAX).is_empty() && !format_utc(i64::MIN).is_empty());
    }
}
