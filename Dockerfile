# A node, or the placement service, of any app: the command says which. See compose.yaml and docs/operations.md.
FROM python:3.13-slim AS build
WORKDIR /source
COPY . .
# The sources, pip and what the build leaves behind stay in this stage.
RUN python -m venv --without-pip /opt/perdure \
    && python -m pip --python /opt/perdure/bin/python install --no-cache-dir '.[redis,postgres]'

FROM python:3.13-slim
# By number, as Kubernetes' `runAsNonRoot` asks for. /perdure is where a SQLite store would be.
RUN useradd --uid 1000 --create-home perdure && install --directory --owner perdure /perdure /shop
COPY --from=build /opt/perdure /opt/perdure
COPY examples /perdure/examples
# What an app prints is in the log at once.
ENV PATH="/opt/perdure/bin:$PATH" PYTHONUNBUFFERED=1
WORKDIR /perdure
USER 1000
ENTRYPOINT ["perdure"]
