namespace onnxfold {}
