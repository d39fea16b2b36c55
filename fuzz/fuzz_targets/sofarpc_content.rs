//! Any bytes as the content of a request and of an answer, in both dialects: values or an error, and what was read can be
//! written and read again.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use settle_bolt::Body;
use settle_hessian::{DecodeOptions, Dialect, Document, HessianEncode};
use settle_sofarpc_wire::{Request, Response};

fuzz_target!(|bytes: &[u8]| {
    for dialect in [Dialect::Sofa3, Dialect::Hessian2] {
        let options = DecodeOptions::new(dialect);
        let body = |class: &'static str| Body {
            class: Bytes::from_static(class.as_bytes()),
            header: Bytes::new(),
            content: Bytes::copy_from_slice(bytes),
        };
        let read = body("com.alipay.sofa.rpc.core.request.SofaRequest");
        if let Ok((request, mut arguments)) = Request::read(&read, &options) {
            let mut taken: Vec<Document<'_>> = Vec::new();
            while let Ok(argument) = arguments.take() {
                taken.push(argument);
            }
            if arguments.finish().is_ok() {
                let given: Vec<&dyn HessianEncode> = taken.iter().map(|argument| argument as _).collect();
                // Its header may be too long for a frame, its properties too deep.
                if let Ok(written) = request.to_body(dialect, &given) {
                    let (again, _) = Request::read(&written, &options).expect("what was written can be read");
                    assert_eq!(again.method_name, request.method_name);
                }
            }
        }
        let read = body("com.alipay.sofa.rpc.core.response.SofaResponse");
        if let Ok(response) = Response::<Document<'_>>::read(&read, &options)
            && let Ok(written) = response.to_body(dialect)
        {
            Response::<Document<'_>>::read(&written, &options).expect("what was written can be read");
        }
    }
});
