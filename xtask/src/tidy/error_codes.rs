//! Each error code in the code has a page, each page a code, and no code two meanings.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use syn::{Expr, ExprLit, Lit, visit::Visit};

use super::{
    Findings, Place,
    error_numbers::{Scope, numbers},
    source::{Index, Meaning, Module, ModuleId, WrittenPath, is_test_only},
    workspace::Workspace,
};

const RULE: &str = "error-codes";
/// The folder of the pages; its README.md is the index.
const PAGES: &str = "docs/errors";
/// Where the type itself is written.
const HOME: &str = "crates/base/src/code.rs";

/// The codes that the code knows, e.g. `TX0007`.
pub type Codes = BTreeSet<String>;

/// Finds every `ErrorCode::new("TX", 7)` outside tests and compares the codes with the pages.
pub fn check(workspace: &Workspace, index: &Index, findings: &mut Findings) -> anyhow::Result<Codes> {
    let mut found = BTreeMap::new();
    for (id, module) in index.modules.iter().enumerate() {
        if module.is_test || module.file == HOME || !module.folder.starts_with("crates/") {
            continue;
        }
        let mut reader = Reader {
            index,
            module,
            id,
            scopes: Vec::new(),
            found: &mut found,
            findings,
        };
        for item in &module.code {
            reader.visit_item(item);
        }
    }
    for (code, places) in &found {
        if let [_, second, ..] = places.as_slice() {
            let message = format!(
                "{code} is written a second time: a code has one meaning; the first is at {}",
                places[0]
            );
            findings.add(second.clone(), RULE, message);
        }
    }
    let codes: Codes = found.keys().cloned().collect();
    check_pages(workspace, &found, &codes, findings)?;
    Ok(codes)
}

fn check_pages(
    workspace: &Workspace,
    found: &BTreeMap<String, Vec<Place>>,
    codes: &Codes,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let folder = workspace.root.join(PAGES);
    let contents = std::fs::read_to_string(folder.join("README.md")).unwrap_or_default();
    let mut pages = BTreeSet::new();
    if folder.is_dir() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("list {PAGES}"))? {
            let path = entry.with_context(|| format!("list {PAGES}"))?.path();
            let Some(name) = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_string) else {
                continue;
            };
            if name == "README" {
                continue;
            }
            let place = Place::file(format!("{PAGES}/{name}.md"));
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {place}"))?;
            for complaint in page_complaints(&name, &text) {
                findings.add(place.clone(), RULE, complaint);
            }
            if !codes.contains(&name) {
                findings.add(place.clone(), RULE, format!("no code says `ErrorCode::new` for {name}"));
            }
            if !contents.contains(&format!("({name}.md)")) {
                findings.add(place, RULE, format!("{PAGES}/README.md does not link it"));
            }
            pages.insert(name);
        }
    }
    for code in codes.difference(&pages) {
        let message = format!("{code} has no page {PAGES}/{code}.md (see {PAGES}/README.md for the template)");
        findings.add(found[code][0].clone(), RULE, message);
    }
    Ok(())
}

/// What a page lacks of the template in docs/errors/README.md.
fn page_complaints(code: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if !text.starts_with(&format!("# {code}: ")) {
        complaints.push(format!("the page does not start with `# {code}: <what happened>`"));
    }
    if !["yes", "no", "unknown"]
        .iter()
        .any(|word| text.lines().any(|line| line == format!("Retryable: {word}")))
    {
        complaints.push("the page has no line `Retryable: yes`, `no` or `unknown`".to_string());
    }
    for heading in ["## Meaning", "## What to do"] {
        let body = text.lines().skip_while(|line| *line != heading).skip(1);
        if body
            .take_while(|line| !line.starts_with('#'))
            .all(|line| line.trim().is_empty())
        {
            complaints.push(format!("the page says nothing under `{heading}`"));
        }
    }
    complaints
}

struct Reader<'a> {
    index: &'a Index,
    module: &'a Module,
    id: ModuleId,
    /// The functions around what is being read, outermost first.
    scopes: Vec<Scope<'a>>,
    found: &'a mut BTreeMap<String, Vec<Place>>,
    findings: &'a mut Findings,
}

impl<'a> Reader<'a> {
    /// Whether `path` is `ErrorCode::new` under whatever name.
    fn is_constructor(&self, path: &syn::Path) -> bool {
        self.index
            .resolve(self.id, &WrittenPath::of(path))
            .iter()
            .any(|meaning| match meaning {
                Meaning::Item(module, rest) => {
                    self.index.modules[*module].file == HOME && *rest == ["ErrorCode".to_string(), "new".to_string()]
                }
                _ => false,
            })
    }

    /// The codes that a call with these arguments may make.
    fn codes(&self, arguments: &syn::punctuated::Punctuated<Expr, syn::Token![,]>) -> Option<Vec<String>> {
        let mut arguments = arguments.iter();
        let (
            Expr::Lit(ExprLit {
                lit: Lit::Str(area), ..
            }),
            number,
        ) = (arguments.next()?, arguments.next()?)
        else {
            return None;
        };
        let numbers = numbers(number, &self.scopes)?;
        Some(
            numbers
                .iter()
                .map(|number| format!("{}{number:04}", area.value()))
                .collect(),
        )
    }

    fn function(&mut self, signature: &'a syn::Signature, body: &'a syn::Block) {
        self.scopes.push(Scope {
            signature,
            body,
            module: &self.module.code,
        });
        self.visit_block(body);
        self.scopes.pop();
    }
}

impl<'a> Visit<'a> for Reader<'a> {
    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        if !is_test_only(&item.attrs) {
            self.function(&item.sig, &item.block);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
    }

    fn visit_expr_call(&mut self, call: &'a syn::ExprCall) {
        if let Expr::Path(function) = &*call.func
            && self.is_constructor(&function.path)
        {
            let line = function.path.segments[0].ident.span().start().line;
            let place = Place::line(&self.module.file, line);
            match self.codes(&call.args) {
                Some(codes) => {
                    for code in codes {
                        self.found.entry(code).or_default().push(place.clone());
                    }
                }
                None => {
                    let message = "this check cannot list the codes made here: give it literals".to_string();
                    self.findings.add(place, RULE, message);
                }
            }
        }
        syn::visit::visit_expr_call(self, call);
    }

    fn visit_macro(&mut self, call: &'a syn::Macro) {
        let text = call.tokens.to_string().replace(' ', "");
        if text.contains("ErrorCode::new(") {
            let line = call.path.segments[0].ident.span().start().line;
            let message = "an error code inside a macro is not seen by this check: write a constant".to_string();
            self.findings.add(Place::line(&self.module.file, line), RULE, message);
        }
    }
}
