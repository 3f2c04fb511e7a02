"""Stage `finetune`: tune the attribution's teacher on the task, where that is asked for."""

import json

from stages.distil import tables
from stages.distil.command import run_stage
from stages.distil.models import ADAPTER, model_folder, whole_folder
from stages.distil.parameters import Parameters


def finetune(parameters: Parameters) -> None:
    """Write the folder of the low-rank matrices; it is empty where nothing is tuned."""
    settings = parameters.saliency.finetune
    with whole_folder(ADAPTER) as folder:
        if not settings.epochs:
            print("saliency.finetune.epochs is 0: the teacher stays as it is")
            return
        examples = tables.read_examples("train")
        # After the input is read: importing torch takes seconds.
        from stages.distil.conversations import PromptFile
        from stages.distil.encoding import encode_prompt
        from stages.distil.finetuning import tune
        from stages.distil.fingerprint import fingerprint
        from stages.distil.hardware import precision, use_one_gpu
        from stages.distil.loading import load_model
        from stages.distil.lora import save_adapter

        use_one_gpu("the tuning of a teacher runs on one")
        teacher = model_folder(parameters.saliency.teacher)
        dtype = precision(parameters.saliency.dtype)
        model, tokenizer = load_model(teacher, dtype, place=False)
        wording = PromptFile(parameters.rationales.prompts.answer)
        prompts = [
            encode_prompt(tokenizer, wording.conversation(example), example, example.answer)
            for example in examples
        ]
        known = fingerprint(parameters.models[parameters.saliency.teacher], teacher)
        identity = json.dumps([dtype, known], sort_keys=True)
        save_adapter(tune(model, tokenizer, prompts, settings, parameters.seed, identity), folder)


if __name__ == "__main__":
    run_stage(finetune, __doc__)
