//! Arguments of SQL statements.

use afterload_core::error::Result;
use afterload_core::text::refuse_nul;

/// A value for a placeholder.
#[derive(Clone, Debug)]
pub enum SqlArg {
    /// `TEXT`
    Text(Option<String>),
    /// `BIGINT`
    Int(Option<i64>),
}

macro_rules! impl_sql_arg_from {
    ($($type:ty => |$value:ident| $arg:expr),* $(,)?) => {$(
        impl From<$type> for SqlArg {
            fn from($value: $type) -> Self {
                $arg
            }
        }
    )*};
}
impl_sql_arg_from! {
    &str => |value| SqlArg::Text(Some(value.to_owned())),
    &String => |value| SqlArg::Text(Some(value.clone())),
    String => |value| SqlArg::Text(Some(value)),
    Option<String> => |value| SqlArg::Text(value),
    Option<&str> => |value| SqlArg::Text(value.map(str::to_owned)),
    &serde_json::Value => |value| SqlArg::Text(Some(value.to_string())),
    i64 => |value| SqlArg::Int(Some(value)),
    u32 => |value| SqlArg::Int(Some(value.into())),
    bool => |value| SqlArg::Int(Some(value.into())),
    Option<i64> => |value| SqlArg::Int(value),
}

/// Refuses texts that PostgreSQL does not store, on SQLite as well. Texts of callers are refused earlier.
///
/// # Errors
/// `text_invalid`
pub(crate) fn check_args(args: &[SqlArg]) -> Result<()> {
    args.iter().try_for_each(|arg| match arg {
        SqlArg::Text(Some(text)) => refuse_nul("a text for the database", text),
        SqlArg::Text(None) | SqlArg::Int(_) => Ok(()),
    })
}

/// The arguments of a statement, in the order of the placeholders.
macro_rules! args {
    ($($value:expr),* $(,)?) => { [$($crate::SqlArg::from($value)),*] };
}
pub(crate) use args;

/// Collects the arguments of a statement that is built at run time. It numbers the placeholders.
#[derive(Debug, Default)]
pub(crate) struct SqlArgs(Vec<SqlArg>);

impl SqlArgs {
    /// Adds a value and returns its placeholder.
    pub fn add(&mut self, value: impl Into<SqlArg>) -> String {
        self.0.push(value.into());
        format!("${}", self.0.len())
    }

    /// Adds values and returns their placeholders for `IN (…)`. Without values, the list matches nothing.
    pub fn add_list<T: Into<SqlArg>>(&mut self, values: impl IntoIterator<Item = T>) -> String {
        let placeholders: Vec<_> = values.into_iter().map(|value| self.add(value)).collect();
        if placeholders.is_empty() { "NULL".into() } else { placeholders.join(", ") }
    }

    /// The values, in the order of their placeholders.
    pub fn as_slice(&self) -> &[SqlArg] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::SqlArgs;

    #[test]
    fn placeholders_are_numbered_in_the_order_of_their_values() {
        let mut args = SqlArgs::default();
        assert_eq!(args.add_list(Vec::<i64>::new()), "NULL");
        assert_eq!([args.add("a"), args.add_list([1_i64, 2]), args.add(true)], ["$1", "$2, $3", "$4"]);
        assert_eq!(args.as_slice().len(), 4);
    }
}
