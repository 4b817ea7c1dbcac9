//! The plan in words, for `holdfast check`.
use crate::plan::Plan;
/// The plan in words.
pub fn describe(plan: &Plan) -> String {
    format!("{plan:#?}")
}
