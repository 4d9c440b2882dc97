"""The job ``<dataset>_review``: what ``ad-assets quarantine`` decides, from the launchpad of the UI."""

# No postponed annotations: Dagster reads them when the job is defined.
import dagster as dg
from pydantic import Field

from ad_assets.config.benchmark import Benchmark, Dataset
from ad_assets.config.faults import ConfigError, check_name
from ad_assets.graph.stage import Stage
from ad_assets.prediction.image_review import review
from ad_assets.production.feedback_ledger import Decision
from ad_assets.production.store_identity import check_store


class ImageReview(dg.Config):
    """A person's decisions about images of a category."""

    category: str = Field(description="The category of the images.")
    admit: list[str] = Field(
        [], description="Images that wait to train on: file names, or beginnings of ids; [all]: all that wait."
    )
    reject: list[str] = Field([], description="Images never to train on; any training image may be named.")


def review_job(benchmark: Benchmark, dataset: Dataset, index: Stage) -> dg.JobDefinition:
    """The job of a production dataset.

    Args:
        benchmark: the file that the dataset is of.
        dataset: a production dataset.
        index: its image index, whose categories it has.
    """

    @dg.op(name=f"{dataset.name}_decide")
    def decide(context: dg.OpExecutionContext, config: ImageReview) -> None:
        asked: dict[Decision, list[str]] = {"admit": config.admit, "reject": config.reject}
        if not any(asked.values()):
            raise dg.Failure("name the images to admit or to reject: file names, or beginnings of ids")
        try:
            check_store(dataset, benchmark.store, context.instance)
            check_name("category", config.category, index.partitions or ())
            for decision, names in asked.items():
                if names:
                    reviewed = review(benchmark, dataset.name, config.category, names, decision)
                    context.log.info("\n".join(reviewed.lines(decision)) or "nothing waits that is not decided")
        except ConfigError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        context.log.info(f"the next run of {dataset.name} [{config.category}] applies it")

    @dg.job(
        name=f"{dataset.name}_review",
        description="Decides on images that are held back, as `ad-assets quarantine` does; their pictures are in the "
        "check `new_images_nominal` of the image index. The sensor of the folder applies it in a run of the category.",
        config={"ops": {f"{dataset.name}_decide": {"config": {"category": "", "admit": [], "reject": []}}}},
        executor_def=dg.in_process_executor,
    )
    def job() -> None:
        decide()

    return job
