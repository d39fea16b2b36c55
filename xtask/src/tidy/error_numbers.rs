//! Which numbers `ErrorCode::new("TX", number)` may be given, for the ways in which code writes that.
//!
//! Understood: a literal; a `match`, `if` or block that ends in literals; a local bound to one of these, alone or as one
//! element of a tuple; a parameter of a function that is called with literals only. Everything else is unknown, and a
//! code that cannot be listed cannot have its page checked.

use std::collections::BTreeSet;

use syn::{Expr, ExprLit, Item, Lit, Pat, Stmt, visit::Visit};

/// The function around a call, and all code of its module.
pub struct Scope<'a> {
    pub signature: &'a syn::Signature,
    pub body: &'a syn::Block,
    pub module: &'a [Item],
}

/// The numbers that `expr` may be; `None` when they cannot be told. `scopes` go from the outermost function inwards.
pub fn numbers(expr: &Expr, scopes: &[Scope<'_>]) -> Option<BTreeSet<u16>> {
    element_numbers(expr, None, scopes)
}

/// The numbers of `expr`, or of its tuple element at `element`.
fn element_numbers(expr: &Expr, element: Option<usize>, scopes: &[Scope<'_>]) -> Option<BTreeSet<u16>> {
    match expr {
        Expr::Lit(ExprLit {
            lit: Lit::Int(number), ..
        }) if element.is_none() => Some(BTreeSet::from([number.base10_parse().ok()?])),
        Expr::Tuple(tuple) => element_numbers(tuple.elems.get(element?)?, None, scopes),
        Expr::Paren(inner) => element_numbers(&inner.expr, element, scopes),
        Expr::Block(block) => block_numbers(&block.block, element, scopes),
        Expr::Match(arms) => union(arms.arms.iter().map(|arm| element_numbers(&arm.body, element, scopes))),
        Expr::If(branches) => union([
            block_numbers(&branches.then_branch, element, scopes),
            element_numbers(&branches.else_branch.as_ref()?.1, element, scopes),
        ]),
        Expr::Path(name) if element.is_none() => named_numbers(name.path.get_ident()?, scopes),
        _ => None,
    }
}

fn block_numbers(block: &syn::Block, element: Option<usize>, scopes: &[Scope<'_>]) -> Option<BTreeSet<u16>> {
    match block.stmts.last()? {
        Stmt::Expr(expr, None) => element_numbers(expr, element, scopes),
        _ => None,
    }
}

fn union(parts: impl IntoIterator<Item = Option<BTreeSet<u16>>>) -> Option<BTreeSet<u16>> {
    let parts: Option<Vec<BTreeSet<u16>>> = parts.into_iter().collect();
    Some(parts?.into_iter().flatten().collect())
}

/// What a local or a parameter of the innermost function may be.
fn named_numbers(name: &syn::Ident, scopes: &[Scope<'_>]) -> Option<BTreeSet<u16>> {
    let scope = scopes.last()?;
    let mut locals = Locals {
        name,
        found: Vec::new(),
    };
    locals.visit_block(scope.body);
    match locals.found.as_slice() {
        [(value, element)] => return element_numbers(value, *element, scopes),
        [] => {}
        // Bound twice: which of them is meant takes more than this reader.
        _ => return None,
    }
    let position = scope.signature.inputs.iter().position(|input| match input {
        syn::FnArg::Typed(input) => matches!(&*input.pat, Pat::Ident(pattern) if pattern.ident == *name),
        syn::FnArg::Receiver(_) => false,
    })?;
    let mut calls = Calls {
        function: &scope.signature.ident,
        position,
        numbers: Some(BTreeSet::new()),
    };
    for item in scope.module {
        calls.visit_item(item);
    }
    calls.numbers
}

/// Where `name` is bound by a `let`: the value, and which element of it.
struct Locals<'a> {
    name: &'a syn::Ident,
    found: Vec<(&'a Expr, Option<usize>)>,
}

impl<'a> Visit<'a> for Locals<'a> {
    fn visit_local(&mut self, local: &'a syn::Local) {
        let is_name = |pattern: &Pat| matches!(pattern, Pat::Ident(pattern) if pattern.ident == *self.name);
        let pattern = match &local.pat {
            Pat::Type(typed) => &*typed.pat,
            pattern => pattern,
        };
        let element = match pattern {
            Pat::Tuple(tuple) => tuple.elems.iter().position(is_name).map(Some),
            pattern => is_name(pattern).then_some(None),
        };
        if let (Some(element), Some(init)) = (element, &local.init) {
            self.found.push((&init.expr, element));
        }
        syn::visit::visit_local(self, local);
    }
}

/// The literals that `function` is called with; `None` once one call has something else.
struct Calls<'a> {
    function: &'a syn::Ident,
    position: usize,
    numbers: Option<BTreeSet<u16>>,
}

impl<'a> Visit<'a> for Calls<'_> {
    fn visit_expr_call(&mut self, call: &'a syn::ExprCall) {
        if matches!(&*call.func, Expr::Path(path) if path.path.is_ident(self.function)) {
            let number = call.args.get(self.position).and_then(|argument| numbers(argument, &[]));
            self.numbers = union([self.numbers.take(), number]);
        }
        syn::visit::visit_expr_call(self, call);
    }
}
