import { app } from "../../scripts/app.js"

// The editor's new way of drawing nodes takes a result for a picture unless the node has an input of type VIDEO alone.
app.registerExtension({
  name: "MochiParallel.SaveVideo",
  nodeCreated(node) {
    if (node.comfyClass !== "MochiParallelSaveVideo") return
    const before = node.onExecuted
    node.onExecuted = function (output) {
      before?.apply(this, arguments)
      this.previewMediaType = output?.animated?.[0] ? "video" : "image"
    }
  },
})
