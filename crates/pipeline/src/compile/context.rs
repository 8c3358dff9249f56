//! What the checks of one file have in common.

use std::collections::BTreeMap;

use super::super::ast::DefaultsAst;
use super::super::expr::check::{EventRoot, FieldSet};
use super::super::params::Param;
use super::super::step_kind::{StepCatalog, ValidationContext};
use afterload_spanned_yaml::YamlNode;

/// What the checks of a file look at.
pub struct CompileContext<'a> {
    pub root: &'a YamlNode,
    pub kinds: &'a StepCatalog,
    pub ctx: &'a ValidationContext,
    pub defaults: &'a DefaultsAst,
    pub param_fields: &'a BTreeMap<String, FieldSet>,
    pub param_types: &'a BTreeMap<String, Param>,
    pub event: EventRoot<'a>,
}
